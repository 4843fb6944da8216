"""Attempts at one training beside and after each other: what is resumed, refused and left alone."""

import errno
import json
import shutil
from dataclasses import replace

import pytest
import torch

from cluster.layout import Worker
from pipelines.storage.folder import Folder
from tests.processes import job
from vgg.recipes.registry import RECIPES
from vgg.tracking.observers import training_observers
from vgg.training.loop import train
from vgg.weights import retention
from vgg.weights.open_net import open_net

RECIPE = RECIPES["digits"][1]
ALONE = Worker(0, 1, 0, torch.device("cpu"), 1)


def recipe(steps, **changes):
    return replace(RECIPE, train=replace(RECIPE.train, steps=steps, **changes))


def run(asked):
    return train(ALONE, asked, training_observers)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 5}, "seed is 0 there, 5 here"),
        ({"recipe": replace(recipe(3), optim=replace(RECIPE.optim, lr=0.5))}, "optim.lr is 0.01 there"),
        ({"recipe": recipe(3, precision="bf16")}, "train.precision is fp32 there, bf16 here"),
    ],
)
def test_checkpoints_of_another_training_are_refused(digits, tmp_path, changes, named):
    """run.json is gone, or another attempt's: the checkpoint itself says whose it is."""
    assert run(job(digits, tmp_path, recipe(2))).result
    asked = {"recipe": recipe(3), **changes}
    outcome = run(job(digits, tmp_path, **asked))
    assert outcome.users_mistake
    assert named in (outcome.problem or "")


def test_a_precision_that_auto_resolves_to_another_is_refused(digits, tmp_path):
    """As on resuming on another GPU: the loss scaler and the arithmetic would be others."""
    auto = recipe(2, precision="auto"), recipe(3, precision="auto")
    first = run(job(digits, tmp_path, auto[0])).result
    newest = tmp_path / "checkpoints" / "step-00000002"
    state = json.loads((newest / "state.json").read_text())
    saved, _ = retention.read_newest(Folder(str(tmp_path)))
    assert saved is not None
    assert state["precision"] == first["precision"]
    metadata = {**saved.metadata, "precision": "fp16"}
    retention.write(Folder(str(tmp_path)), replace(saved, metadata=metadata), best=True)
    outcome = run(job(digits, tmp_path, auto[1]))
    assert outcome.users_mistake
    assert f"train.precision is fp16 there, {first['precision']} here" in (outcome.problem or "")


def test_damage_of_the_newest_checkpoint_costs_one_generation(digits, tmp_path):
    undisturbed = run(job(digits, tmp_path / "a", recipe(8, checkpoint_steps=2))).result
    assert run(job(digits, tmp_path / "b", recipe(5, checkpoint_steps=2))).result
    (tmp_path / "b" / "checkpoints" / "step-00000005" / "model.safetensors").write_bytes(b"")
    resumed = run(job(digits, tmp_path / "b", recipe(8, checkpoint_steps=2))).result
    assert undisturbed is not None
    assert resumed is not None
    assert resumed["resumed_from"] == [4]
    assert resumed["weights_sha256"] == undisturbed["weights_sha256"]


def test_if_every_checkpoint_is_damaged_nothing_starts_anew(digits, tmp_path):
    assert run(job(digits, tmp_path, recipe(3, checkpoint_steps=1))).result
    for state in tmp_path.glob("checkpoints/*/state.json"):
        state.write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    outcome = run(job(digits, tmp_path, recipe(4)))
    assert outcome.users_mistake
    assert "can be read" in (outcome.problem or "")
    assert sorted(tmp_path.rglob("*")) == before


def test_two_at_once(digits, tmp_path):
    """The second, in the same process here, is told and leaves everything as it is."""
    first = job(digits, tmp_path, recipe(2))
    held = Folder(first.out)
    assert run(first).result
    from vgg.weights.lease import Lease

    lease = Lease(held, "another")
    lease.acquire()
    try:
        outcome = run(job(digits, tmp_path, recipe(3)))
    finally:
        lease.release()
    assert outcome.users_mistake
    assert "written by another training" in (outcome.problem or "")


def test_a_divergence_before_any_checkpoint_does_not_promise_one(digits, tmp_path):
    wild = replace(recipe(8), optim=replace(RECIPE.optim, lr=1e6))
    outcome = run(job(digits, tmp_path, wild))
    assert "no checkpoint had been saved" in (outcome.problem or "")
    assert not (tmp_path / "checkpoints").exists()


def test_a_full_disk_ends_the_training_at_once_with_its_reason(digits, tmp_path, monkeypatch):
    """No restart of the workers would mend it."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(retention, "write_files", full)
    outcome = run(job(digits, tmp_path, recipe(4, checkpoint_steps=1)))
    assert "the same command goes on from the newest checkpoint" in (outcome.problem or "")
    assert "No space left" in (outcome.problem or "")
    assert not outcome.users_mistake


def started_from(start_from, steps=3):
    model = replace(RECIPE.model, initialisation="checkpoint", start_from=str(start_from))
    return replace(recipe(steps), model=model)


@pytest.fixture
def two_parents(digits, tmp_path):
    """Runs of one step, of different seeds, and a copy of the first."""
    for name, seed in (("first", 0), ("second", 1)):
        assert run(job(digits, tmp_path / name, recipe(1), seed=seed)).result
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    return tmp_path


def test_a_training_is_of_its_starting_weights_wherever_they_lie(digits, two_parents):
    out = two_parents / "out"
    assert run(job(digits, out, started_from(two_parents / "first", 2))).result
    found = run(job(digits, out, started_from(two_parents / "copy", 3))).result
    assert found is not None
    assert found["resumed_from"] == [2]
    other = run(job(digits, out, started_from(two_parents / "second", 4)))
    assert other.users_mistake
    assert "model.start_from is" in (other.problem or "")


def test_lineage_is_kept_apart_from_the_difference(digits, two_parents):
    parent = run(job(digits, two_parents / "first", recipe(1))).result
    child = run(job(digits, two_parents / "child", started_from(two_parents / "first"))).result
    grandchild = run(job(digits, two_parents / "grandchild", started_from(two_parents / "child"))).result
    assert parent is not None
    assert child is not None
    assert grandchild is not None
    assert parent["lineage"] == []
    assert "model.start_from" not in child["difference"]
    (ancestor,) = child["lineage"]
    assert ancestor["weights_sha256"] == parent["weights_sha256"]
    assert ancestor["recipe"] == "digits"
    assert ancestor["difference"] == parent["difference"]
    assert [each["weights_sha256"] for each in grandchild["lineage"]] == [
        open_net(str(two_parents / "child")).weights_sha256,
        parent["weights_sha256"],
    ]


def test_weights_that_change_between_the_command_and_the_workers_are_refused(digits, two_parents):
    asked = job(digits, two_parents / "out", started_from(two_parents / "first"))
    shutil.rmtree(two_parents / "first")
    shutil.copytree(two_parents / "second", two_parents / "first")
    outcome = run(asked)
    assert outcome.users_mistake
    assert "holds other weights" in (outcome.problem or "")
    assert not (two_parents / "out" / "checkpoints").exists()


def saved_steps(out):
    return [int(folder.name.removeprefix("step-")) for folder in sorted(out.glob("checkpoints/step-*"))]


def test_checkpoints_of_epochs_are_kept(digits, tmp_path):
    """Passes end at steps 6, 12 and 17; at 12 and 17 are the newest that are not last."""
    assert run(job(digits, tmp_path, recipe(19, checkpoint_steps=100, keep_epochs=1))).result
    assert {6, 12, 17, 19} <= set(saved_steps(tmp_path))
    assert json.loads((tmp_path / "checkpoints" / "step-00000006" / "epoch.json").read_text()) == {"epoch": 1}


def test_when_checkpoints_are_saved_is_no_part_of_a_training(digits, tmp_path):
    by_clock = {"checkpoint_steps": 1000, "checkpoint_seconds": 1e-3}
    assert run(job(digits, tmp_path, recipe(4, **by_clock))).result
    assert saved_steps(tmp_path) == [3, 4]  # at every step
    found = run(job(digits, tmp_path, recipe(5, checkpoint_steps=1000, keep_epochs=3))).result
    assert found is not None
    assert found["resumed_from"] == [4]
