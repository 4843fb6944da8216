"""The pictures of a training that is not tracked, in its folder."""

import math
import time

import numpy as np
import torch
from PIL import Image

from cluster.layout import Worker
from pipelines.storage.folder import Folder
from tests.processes import job
from tests.tracking.test_training_run import SHORT
from vgg.pictures.curves import training_curves
from vgg.tracking import picture_files
from vgg.tracking.observers import training_observers
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
