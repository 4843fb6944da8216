"""Asked to end, a training saves the step it is at, and the same command makes the very same net of it."""

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import pytest

from cluster import agreement
from cluster.stop_request import Asked, StopRequest
from tests.processes import job
from vgg.recipes.registry import RECIPES

RECIPE = RECIPES["digits"][1]
STEPS = 14
SHORT = replace(RECIPE, train=replace(RECIPE.train, steps=STEPS, checkpoint_steps=100))
"""Passes end at steps 6 and 12; a validation of 364 images on one worker takes two batches."""
LOOKS = {1: (1, 4, 2), 2: (3, 9), 3: (7, 8)}
"""Workers -> at which look each attempt is asked to end; the first look comes before the first step."""


class AtLook(StopRequest):
    """Asked to end when it is looked at for the n-th time."""

    def __init__(self, look: int, asked: Asked = Asked.STOP) -> None:
        self._looks, self._look, self._asked = 0, look, asked
        self.is_answered = False

    @property
    def asked(self) -> Asked:  # type: ignore[override]  # changes when it is read
        self._looks += 1
        return self._asked if self._looks >= self._look else Asked.GO_ON


@dataclass(frozen=True)
class OnlyRank:
    """The last worker alone is asked: what a node's own notice may be like."""

    rank: int
    look: int
    asked: Asked = Asked.STOP

    def __call__(self, rank: int) -> StopRequest:
        return AtLook(self.look, self.asked) if rank == self.rank else StopRequest()


@contextmanager
def looking_each_step(_: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "LOOK_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def undisturbed(workers, digits, tmp_path_factory):
    found = workers.run(1, job(digits, tmp_path_factory.mktemp("undisturbed"), SHORT)).result
    assert [v["step"] for v in found["validations"]] == [6, 12, STEPS]
    return found


def require_same(found, undisturbed):
    """Of a validation's loss the last bits depend on the number of workers, which divides its batches."""
    for field in ("losses", "weights_sha256", "steps"):
        assert found[field] == undisturbed[field], field
    assert found["best"]["step"] == undisturbed["best"]["step"]
    for one, other in zip(found["validations"], undisturbed["validations"], strict=True):
        assert one == {**other, "loss": pytest.approx(other["loss"], rel=1e-6)}


@pytest.mark.parametrize("world", LOOKS)
def test_stopped_anywhere_it_ends_with_the_very_same_net(workers, digits, undisturbed, tmp_path, world):
    reached = []
    for look in LOOKS[world]:
        outcome = workers.run(world, job(digits, tmp_path, SHORT), looking_each_step, OnlyRank(world - 1, look))
        assert outcome.problem is None
        assert outcome.result is None
        assert not outcome.moves
        reached.append(outcome.stopped_at)
        assert not (tmp_path / "result.json").exists()
        if outcome.stopped_at:
            index = json.loads((tmp_path / "checkpoints" / "index.json").read_text())
            assert index["last"] == f"step-{outcome.stopped_at:08d}"
    found = workers.run(world, job(digits, tmp_path, SHORT)).result
    # A look is taken before the first step and after each; those of a validation come between.
    assert reached == {1: [0, 3, 4], 2: [2, 7], 3: [6, 10]}[world]
    assert found["resumed_from"] == [step for step in reached if step]
    require_same(found, undisturbed)


@pytest.mark.parametrize("world", [1, 2])
def test_a_validation_is_broken_off_and_made_up_for(workers, digits, undisturbed, tmp_path, world):
    """Asked while the first batch, or the second, is there."""
    during = OnlyRank(0, 8 if world == 1 else 9)
    outcome = workers.run(world, job(digits, tmp_path, SHORT), looking_each_step, during)
    assert outcome.stopped_at == 6
    (newest,) = (tmp_path / "checkpoints").glob("step-*/state.json")
    assert json.loads(newest.read_text())["validations"] == []
    require_same(workers.run(world, job(digits, tmp_path, SHORT)).result, undisturbed)


def test_asked_again_while_it_makes_up_for_a_validation(workers, digits, undisturbed, tmp_path):
    for look in (8, 2):
        outcome = workers.run(1, job(digits, tmp_path, SHORT), looking_each_step, OnlyRank(0, look))
        assert outcome.stopped_at == 6
    require_same(workers.run(1, job(digits, tmp_path, SHORT)).result, undisturbed)


def test_asked_after_the_last_step(workers, digits, undisturbed, tmp_path):
    recipe = replace(RECIPE, train=replace(RECIPE.train, steps=1, checkpoint_steps=1))
    outcome = workers.run(1, job(digits, tmp_path, recipe), looking_each_step, OnlyRank(0, 2))
    assert outcome.stopped_at == 1
    found = workers.run(1, job(digits, tmp_path, recipe)).result
    assert [v["step"] for v in found["validations"]] == [1]
    assert found["losses"] == undisturbed["losses"][:1]


def test_told_to_move_it_is_saved_the_same_way(workers, digits, tmp_path):
    asking = OnlyRank(1, 4, Asked.MOVE)
    outcome = workers.run(2, job(digits, tmp_path, SHORT), looking_each_step, asking)
    assert outcome.moves
    assert outcome.stopped_at == 3


def soon(rank: int, seconds: float) -> StopRequest:
    request = StopRequest()
    if rank == 1:
        threading.Timer(seconds, setattr, (request, "asked", Asked.STOP)).start()
    return request


def test_at_its_own_pace_of_looking(workers, digits, undisturbed, tmp_path):
    outcome = workers.run(2, job(digits, tmp_path, SHORT), asking=partial(soon, seconds=1.0))
    assert outcome.stopped_at is not None
    require_same(workers.run(2, job(digits, tmp_path, SHORT)).result, undisturbed)
