"""What observers of a training are told, and when."""

from dataclasses import FrozenInstanceError, replace
from itertools import pairwise

import pytest
import torch

from cluster.layout import Worker
from tests.processes import job
from vgg.recipes.registry import RECIPES
from vgg.tracking.picture_files import PictureFiles
from vgg.training.events import Finished, FirstBatch, Started, StepsDone, Validated
from vgg.training.loop import train

RECIPE = RECIPES["digits"][1]
ALONE = Worker(0, 1, 0, torch.device("cpu"), 1)


class Recorder:
    """Keeps every event, and the context."""

    def __init__(self):
        self.events, self.contexts = [], []

    def __call__(self, context):
        self.contexts.append(context)
        return [self]

    def handle(self, event):
        self.events.append(event)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


def recipe(steps, **optim):
    train = replace(RECIPE.train, steps=steps, log_steps=4, checkpoint_steps=5)
    return replace(RECIPE, train=train, optim=replace(RECIPE.optim, **optim))


@pytest.fixture(scope="module")
def told(digits, tmp_path_factory):
    """Eight steps in one go; an epoch of 1433 images ends with the sixth."""
    recorder = Recorder()
    asked = job(digits, tmp_path_factory.mktemp("run"), recipe(8))
    return recorder, train(ALONE, asked, recorder)


def test_events_come_in_order(told):
    kinds = [type(event).__name__ for event in told[0].events]
    assert kinds == [
        "Started",
        "FirstBatch",
        "StepsDone",  # step 1, so that something is said soon
        "StepsDone",  # step 4: a progress line is due
        "StepsDone",  # step 5: a checkpoint is due
        "StepsDone",
        "Validated",  # step 6: the epoch ended
        "StepsDone",
        "Validated",  # step 8: the end
        "Finished",
    ]


def test_every_loss_is_told_once(told):
    recorder, outcome = told
    windows = recorder.of(StepsDone)
    assert [loss for window in windows for loss in window.losses] == outcome.result["losses"]
    steps = [0, *(window.step for window in windows)]
    assert [later - earlier for earlier, later in pairwise(steps)] == [len(w.losses) for w in windows]
    for window in windows:
        assert 0 <= window.data_wait_seconds <= window.seconds


def test_a_validation_carries_the_history_up_to_it(told):
    recorder, outcome = told
    first, last = recorder.of(Validated)
    assert list(first.losses) == outcome.result["losses"][:6]
    assert [v["step"] for v in first.validations] == [6]
    assert list(last.validations) == outcome.result["validations"]
    assert first.scores.confusion_KK.sum() == first.scores.seen == 364


def test_the_end_is_the_outcome(told):
    recorder, outcome = told
    (finished,) = recorder.of(Finished)
    assert finished.problem is None
    assert finished.result == outcome.result
    assert outcome.result["steps"] == 8


def test_events_cannot_be_changed(told):
    with pytest.raises(FrozenInstanceError):
        told[0].of(StepsDone)[0].step = 0


def test_a_resumed_training_says_where_it_resumed_and_shows_no_first_batch(digits, tmp_path):
    recorder = Recorder()
    train(ALONE, job(digits, tmp_path, recipe(2)), recorder)
    train(ALONE, job(digits, tmp_path, recipe(3)), recorder)
    assert [context.resumed_from for context in recorder.contexts] == [None, 2]
    assert len(recorder.of(Started)) == 2
    assert len(recorder.of(FirstBatch)) == 1


def test_a_training_that_diverges_ends_with_its_problem(digits, tmp_path):
    recorder = Recorder()
    outcome = train(ALONE, job(digits, tmp_path, recipe(8, lr=1e6)), recorder)
    (finished,) = recorder.of(Finished)
    assert finished.result is None
    assert "lower --optim.lr" in finished.problem
    assert finished.problem == outcome.problem


def test_an_error_ends_the_training_for_its_observers_too(digits, tmp_path):
    class Failing(Recorder):
        def handle(self, event):
            super().handle(event)
            if isinstance(event, StepsDone):
                raise RuntimeError("an observer's bug")

    failing = Failing()
    with pytest.raises(RuntimeError, match="an observer's bug"):
        train(ALONE, job(digits, tmp_path, recipe(8)), failing)
    (finished,) = failing.of(Finished)
    assert finished.result is None
    assert "cut off" in finished.problem
    assert not finished.is_last


def test_pictures_are_drawn_at_an_end_but_not_where_the_workers_start_again(digits, tmp_path):
    """Which would wait for them."""

    class Failing:
        def handle(self, event):
            if isinstance(event, StepsDone) and event.step == fails_at:
                raise RuntimeError("the others are gone")

    def observers(context):
        return [Failing(), PictureFiles(context, None)]

    drawn = tmp_path / "pictures" / "curves.png"
    fails_at = 8
    with pytest.raises(RuntimeError, match="the others are gone"):
        train(ALONE, job(digits, tmp_path, recipe(8)), observers)
    assert not drawn.exists()
    fails_at = 0
    assert train(ALONE, job(digits, tmp_path, recipe(8)), observers).problem is None
    assert drawn.exists()


def test_training_accuracy_and_loss_stand_beside_those_of_validation(told, digits, tmp_path):
    """Of the updates since the validation before: steps 1 to 6, then 7 and 8, whether interrupted or not."""
    first, last = told[1].result["validations"]
    losses = told[1].result["losses"]
    assert first["train_loss"] == pytest.approx(sum(losses[:6]) / 6)
    assert last["train_loss"] == pytest.approx(sum(losses[6:]) / 2)
    for validation, rows in ((first, 6 * 256), (last, 2 * 256)):
        hits = validation["train_top1"] * rows
        assert 0 < hits < rows
        assert hits == pytest.approx(round(hits))
    train(ALONE, job(digits, tmp_path, recipe(7)), Recorder())  # validates at its end, which is not a pass's
    resumed = train(ALONE, job(digits, tmp_path, recipe(8)), Recorder()).result
    assert resumed is not None
    counts = [
        v["train_top1"] * (v["step"] - before)
        for before, v in zip((0, 6, 7), resumed["validations"], strict=True)
    ]
    assert counts[1] + counts[2] == pytest.approx(2 * last["train_top1"])
