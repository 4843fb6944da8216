"""Updates whose numbers are none are left out on all workers alike: one white image makes a net overflow.

Of the other images, which are grey, nothing reaches the weights that overflow by it.
"""

import copy
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from pipelines.shards.manifest import read_manifest
from pipelines.shards.order import training_order
from pipelines.shards.reader import Shards
from pipelines.storage.folder import Folder
from tests.processes import job
from vgg.net.precision import DTYPES, MixedPrecision
from vgg.recipes.registry import RECIPES
from vgg.recipes.schema import Optim
from vgg.training.bad_numbers import MOST_IN_A_ROW, first_of_run
from vgg.training.guard import UpdateGuard
from vgg.training.optimizer import make_optimizer
from vgg.weights import retention

RECIPE = RECIPES["digits"][1]
BATCH, STEPS = 16, 14
IMAGES = 7 * BATCH
OVERFLOWS = {"fp32": 3e37, "fp16": 6e4}
"""Weights by which what white leaves in the first layer overflows, and which themselves do not."""


@dataclass(frozen=True)
class Odd:
    """A data set with the white image, nets that overflow by it, and the steps at which it comes."""

    data: Path
    nets: dict[str, Path]
    seed: int
    steps: list[int]

    def recipe(self, bad_numbers: str, steps: int = STEPS, precision: str = "fp32", **changes):
        """From such a net on."""
        model = replace(SMALL.model, initialisation="checkpoint", start_from=str(self.nets[precision]))
        settings = {"precision": precision, "bad_numbers": bad_numbers, "steps": steps, **changes}
        return replace(SMALL, model=model, train=replace(SMALL.train, **settings))

    def job(self, out: Path, bad_numbers: str, steps: int = STEPS, precision: str = "fp32", **changes):
        """Such a training."""
        return job(self.data, out, self.recipe(bad_numbers, steps, precision, **changes), self.seed)


SMALL = replace(
    RECIPE,
    model=replace(RECIPE.model, width=0.125),
    train=replace(RECIPE.train, batch=BATCH, checkpoint_steps=3, log_steps=4, validation_steps=1000),
)


@pytest.fixture(scope="module")
def odd(workers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    noise = np.random.default_rng(0)
    for split, images in {"train": IMAGES, "val": 8}.items():
        for i in range(images):
            place = folder / "images" / split / "ab"[i % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.integers(110, 140, (36, 36, 3), np.uint8)).save(place / f"{i}.png")
    Image.fromarray(np.full((36, 36, 3), 255, np.uint8)).save(folder / "images" / "train" / "a" / "0.png")
    data = folder / "packed"
    pack(PackOptions(str(folder / "images"), data, workers=1))
    nets = {precision: overflowing(workers, data, folder / precision, precision) for precision in OVERFLOWS}
    seed, steps = next((seed, at) for seed in range(100) if are_apart(at := white_steps(data, seed)))
    return Odd(data, nets, seed, steps)


def white_steps(data: Path, seed: int) -> list[int]:
    shards = Shards(data, read_manifest(data), "train")
    (white,) = [i for i in range(len(shards)) if shards.key(i) == "train/a/0.png"]
    _, images = training_order(seed, 0, STEPS * BATCH, len(shards))
    return sorted({1 + int(row) // BATCH for row in np.flatnonzero(np.asarray(images) == white)})


def are_apart(steps: list[int]) -> bool:
    """So that there is a checkpoint before the first, and one roll-back has nothing to do with the next."""
    return steps[0] >= 6 and steps[1] - steps[0] >= 4 and steps[1] <= STEPS - 2


def overflowing(workers, data: Path, folder: Path, precision: str) -> Path:
    """A run whose net lets only white through one channel, whose weights in the next layer overflow then."""
    recipe = replace(SMALL, train=replace(SMALL.train, steps=1, validation_steps=1))
    assert workers.run(1, job(data, folder, recipe)).result
    saved, _ = retention.read_newest(Folder(str(folder)))
    assert saved is not None
    with torch.no_grad():
        saved.model["conv1_1.weight"][0] = 1
        saved.model["conv1_1.bias"][0] = -1200
        saved.model["conv2_1.weight"][:, 0] = OVERFLOWS[precision]
    retention.write(Folder(str(folder)), saved, best=True)
    return folder


def newest(out: Path):
    saved, _ = retention.read_newest(Folder(str(out)))
    assert saved is not None
    return saved


@pytest.mark.parametrize("precision", OVERFLOWS)
@pytest.mark.parametrize(("bad_numbers", "without"), [("skip", 1), ("roll-back", 2)])
def test_the_net_is_as_if_the_update_had_not_been(workers, odd, tmp_path, precision, bad_numbers, without):
    """That of a training that ended before, to which nothing was done; its momentum too."""
    step = odd.steps[0]
    plain = workers.run(1, odd.job(tmp_path / "plain", "stop", step - without, precision)).result
    found = workers.run(1, odd.job(tmp_path / "found", bad_numbers, step, precision)).result
    before = workers.run(1, odd.job(tmp_path / "before", "stop", step - without - 1, precision)).result
    assert found["left_out"] == list(range(step - without + 1, step + 1))
    assert found["weights_sha256"] == plain["weights_sha256"] != before["weights_sha256"]
    assert found["losses"] == [*plain["losses"], *[None] * without]
    ours, theirs = newest(tmp_path / "found").optimizer, newest(tmp_path / "plain").optimizer
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("bad_numbers", ["skip", "roll-back"])
def test_left_out_alike_on_any_workers_and_after_each_stop(workers, odd, tmp_path, bad_numbers):
    first, second = odd.steps
    undisturbed = workers.run(1, odd.job(tmp_path / "1", bad_numbers)).result
    before = [first - 1, second - 1] if bad_numbers == "roll-back" else []
    assert undisturbed["left_out"] == sorted([*odd.steps, *before])
    assert undisturbed["steps"] == STEPS
    others = [workers.run(2, odd.job(tmp_path / "2", bad_numbers, checkpoint_steps=2, log_steps=1)).result]
    for stops in ((first - 1, second), (first, second - 1), (first - 2, first + 1)):
        out = tmp_path / f"stopped-{stops[0]}-{stops[1]}"
        for stop in stops:
            assert workers.run(1, odd.job(out, bad_numbers, stop)).result
        others.append(workers.run(2, odd.job(out, bad_numbers)).result)
        assert others[-1]["resumed_from"] == list(stops)
    for found in others:
        for field in ("left_out", "losses", "weights_sha256"):
            assert found[field] == undisturbed[field], field


def test_it_is_told(workers, odd, tmp_path):
    first, second = odd.steps
    assert workers.run(1, odd.job(tmp_path, "roll-back")).result
    log = (tmp_path / "log.txt").read_text()
    for step in (first, second):
        assert f"the loss or its gradient is no number at step {step}, on images train/" in log
        assert f", without updates {step - 1} to {step}" in log
    assert workers.run(1, odd.job(tmp_path / "skip", "skip")).result
    log = (tmp_path / "skip" / "log.txt").read_text()
    for step in odd.steps:
        assert re.search(rf"no number at step {step}, on images .*: the update is left out", log)
    (validation,) = json.loads((tmp_path / "skip" / "result.json").read_text())["validations"]
    losses = [loss for loss in newest(tmp_path / "skip").losses.tolist() if loss == loss]
    assert len(losses) == STEPS - 2
    assert validation["train_loss"] == pytest.approx(sum(losses) / len(losses))


def test_one_that_stopped_goes_on_with_another_answer(workers, odd, tmp_path):
    """And one that left something out does not change its ways."""
    undisturbed = workers.run(1, odd.job(tmp_path / "a", "skip")).result
    stopped = workers.run(2, odd.job(tmp_path / "b", "stop"))
    assert f"the loss became nan at step {odd.steps[0]}, on images" in stopped.problem
    assert "see --train.bad-numbers" in stopped.problem
    found = workers.run(2, odd.job(tmp_path / "b", "skip")).result
    assert found["weights_sha256"] == undisturbed["weights_sha256"]
    refused = workers.run(1, odd.job(tmp_path / "b", "roll-back", STEPS + 1))
    assert refused.users_mistake
    assert "left out updates by skip there, is roll-back here" in refused.problem


@pytest.mark.parametrize("bad_numbers", ["skip", "roll-back"])
def test_a_training_that_diverges_ends_all_the_same(workers, digits, tmp_path, bad_numbers):
    settings = replace(SMALL.train, bad_numbers=bad_numbers, steps=60, checkpoint_steps=4)
    wild = replace(SMALL, optim=replace(RECIPE.optim, lr=3.0), train=settings)
    said = workers.run(2, job(digits, tmp_path, wild)).problem
    assert said is not None
    expected = [f"More than {MOST_IN_A_ROW} updates in a row"]
    if bad_numbers == "roll-back":
        expected.append("no going back")
    assert any(text in said for text in expected)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_gradient_that_is_no_number_leaves_everything_as_it_is(name):
    """Though the loss is one: the root of 0. The next update is that of an optimizer without a guard."""
    guarded, plain = nn.Linear(2, 1), nn.Linear(2, 1)
    plain.load_state_dict(guarded.state_dict())
    precision = MixedPrecision(torch.float32, torch.device("cpu"))
    optim = Optim(name=name, lr=0.1)
    optimizers = [make_optimizer(net, optim) for net in (guarded, plain)]
    guard = UpdateGuard(optimizers[0], precision)

    def update(loss_of, net, optimizer, guard=None) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(net) if guard is None else guard.loss(loss_of(net))
        loss.backward()
        told = loss.detach()[None]
        told = told if guard is None else guard.checked(told)
        optimizer.step()
        return told

    def usual(net):
        return net(torch.ones(3, 2)).square().sum()

    def root(net):
        return (net.weight * 0).sum().sqrt()

    for net, optimizer, its_guard in ((guarded, optimizers[0], guard), (plain, optimizers[1], None)):
        update(usual, net, optimizer, its_guard)
    before = copy.deepcopy(guarded.state_dict()), copy.deepcopy(optimizers[0].state_dict()["state"])
    assert update(root, guarded, optimizers[0], guard).isnan().all()
    assert all(torch.equal(before[0][key], value) for key, value in guarded.state_dict().items())
    for i, buffers in optimizers[0].state_dict()["state"].items():
        assert all(torch.equal(before[1][i][key], value) for key, value in buffers.items())
    guard.leaves_out = True
    assert update(usual, guarded, optimizers[0], guard).isnan().all()
    guard.leaves_out = False
    told = [
        update(usual, net, optimizer, its_guard)
        for net, optimizer, its_guard in ((guarded, optimizers[0], guard), (plain, optimizers[1], None))
    ]
    assert torch.equal(*told)
    assert all(torch.equal(plain.state_dict()[key], value) for key, value in guarded.state_dict().items())


def test_with_a_loss_scaler_the_guard_leaves_gradients_alone():
    """Those that its factor made overflow are no bad numbers."""
    net = nn.Linear(2, 1)
    optimizer = make_optimizer(net, Optim())
    guard = UpdateGuard(optimizer, MixedPrecision(DTYPES["fp16"], torch.device("cpu")))
    net.weight.grad = torch.full_like(net.weight, torch.inf)
    assert guard.checked(torch.ones(1)).item() == 1


@pytest.mark.parametrize(
    ("steps", "last", "first"), [((), 5, 5), ((4,), 5, 4), ((5,), 5, 5), ((2, 3, 4), 5, 2), ((1, 2, 4), 5, 4)]
)
def test_a_run_of_updates_that_are_left_out(steps, last, first):
    assert first_of_run(steps, last) == first
