"""The pictures of a training that is not tracked, in its folder."""

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cluster.layout import Worker
from pipelines.storage.folder import Folder
from tests.processes import job
from tests.tracking.test_training_run import SHORT
from vgg.pictures.curves import training_curves
from vgg.tracking import picture_files
from vgg.tracking.observers import training_observers
from vgg.tracking.training_pictures import TrainingPictures
from vgg.training.events import RunContext, Validated
from vgg.training.loop import train

PICTURES = ["classes.png", "confusion.png", "curves.png", "inputs.png", "predictions.png"]


def test_an_untracked_training_leaves_its_pictures(digits, tmp_path):
    asked = job(digits, tmp_path, SHORT)
    outcome = train(Worker(0, 1, 0, torch.device("cpu"), 1), asked, training_observers)
    assert outcome.problem is None
    assert sorted(file.name for file in (tmp_path / "pictures").iterdir()) == PICTURES
    for name in PICTURES:
        with Image.open(tmp_path / "pictures" / name) as image:
            assert min(image.size) > 200
            assert np.asarray(image.convert("RGB")).std() > 5, f"{name} is blank"


class Sink:
    """Keeps what is to be drawn, path -> arguments."""

    def __init__(self, there=()):
        self.drawn: dict[str, Any] = dict.fromkeys(there)

    def has(self, path):
        return path in self.drawn

    def figure(self, path, make, *arguments):
        self.drawn[path] = arguments


@pytest.fixture(scope="module")
def first_validation(digits, tmp_path_factory):
    """The context of a training, and its first validation."""
    found: list[tuple[RunContext, Validated]] = []

    class Keep:
        def __init__(self, context):
            self.context = context

        def handle(self, event):
            if isinstance(event, Validated) and not found:
                found.append((self.context, event))

    asked = job(digits, tmp_path_factory.mktemp("run"), SHORT)
    train(Worker(0, 1, 0, torch.device("cpu"), 1), asked, lambda context: [Keep(context)])
    return found[0]


def worse(event, step):
    """The validation after this one, whose accuracy is lower."""
    last = event.validations[-1]
    return replace(event, step=step, validations=(*event.validations, last | {"step": step, "top1": 0.0}))


def test_what_the_net_answers_is_shown_of_the_best_validation(first_validation):
    context, event = first_validation
    sink = Sink()
    pictures = TrainingPictures(context, sink)
    pictures.validated(event)
    pictures.validated(worse(event, 99))
    pictures.draw()
    error = 100 * (1 - event.validations[-1]["top1"])
    for name in ("classes", "confusion", "predictions"):
        assert f"step {event.step}: " in sink.drawn[f"pictures/{name}.png"][-1]
        assert f"top-1 error {error:.1f} %" in sink.drawn[f"pictures/{name}.png"][-1]
    assert ", 99 steps: " in sink.drawn["pictures/curves.png"][-1]
    assert f"best top-1 error {error:.1f} %" in sink.drawn["pictures/curves.png"][-1]


@pytest.mark.parametrize("there", [(), ("pictures/classes.png",)])
def test_a_resumed_training_shows_a_validation_that_is_not_the_best_where_it_has_no_pictures(
    first_validation, there
):
    context, event = first_validation
    sink = Sink(there)
    pictures = TrainingPictures(context, sink)
    pictures.validated(worse(event, 99))
    pictures.draw()
    assert (sink.drawn["pictures/classes.png"] is None) == bool(there)


def test_a_drawing_that_takes_too_long_is_given_up(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(picture_files, "DRAWING_SECONDS", 0.5)
    files = picture_files.Files(Folder(str(tmp_path)), None)
    files.figure("slow.png", time.sleep, 600)  # type: ignore[arg-type]  # draws nothing, for long
    files.figure("next.png", training_curves, (3.0, 2.0), ())
    assert files.busy
    files.close()
    said = capsys.readouterr().err
    assert "a picture is missing: slow.png (the process that drew it has ended (-9))" in said
    assert "a picture is missing: next.png (it took too long)" in said
    assert not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_drawn_is_told_and_costs_no_training(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vgg.tracking.training_pictures.confusion_figure", math.sqrt)
    asked = job(digits, tmp_path, SHORT)
    outcome = train(Worker(0, 1, 0, torch.device("cpu"), 1), asked, training_observers)
    assert outcome.problem is None
    assert "a picture is missing: pictures/confusion.png (TypeError(" in capsys.readouterr().err
    assert (tmp_path / "result.json").exists()
    assert sorted(file.name for file in (tmp_path / "pictures").iterdir()) == [
        name for name in PICTURES if name != "confusion.png"
    ]
