"""`--train.profile` and `--train.cached-batch`: what is measured of a training."""

import gzip
import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from cluster.layout import Worker
from tests.processes import job
from vgg.recipes.registry import RECIPES
from vgg.training.data import TrainingData
from vgg.training.loop import train
from vgg.training.profiling import parts

RECIPE = RECIPES["digits"][1]
ALONE = Worker(0, 1, 0, torch.device("cpu"), 1)


def recipe(steps, **changes):
    return replace(RECIPE, train=replace(RECIPE.train, steps=steps, **changes))


@pytest.fixture(scope="module")
def profiled(workers, digits, tmp_path_factory):
    """Twelve steps on two workers, of which three are traced."""
    folder = tmp_path_factory.mktemp("profiled")
    outcome = workers.run(2, job(digits, folder / "run", recipe(12, profile=3)))
    plain = workers.run(2, job(digits, folder / "plain", recipe(12)))
    return folder / "run", outcome, plain


def events(folder, rank):
    with gzip.open(folder / "profile" / f"rank-{rank}.trace.json.gz") as file:
        return [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X"]


@pytest.mark.parametrize("rank", [0, 1])
def test_each_worker_leaves_a_trace_of_as_many_updates(profiled, rank):
    found = events(profiled[0], rank)
    updates = [event for event in found if event["name"].startswith("ProfilerStep#")]
    assert sorted(event["name"] for event in updates) == [f"ProfilerStep#{n}" for n in (5, 6, 7)]
    assert len([event for event in found if event["name"] == "data wait"]) == 3
    assert any("convolution" in event["name"] for event in found)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_summary_adds_up_what_the_trace_holds(profiled, rank):
    """By hand from the trace, in microseconds."""
    found = events(profiled[0], rank)
    lines = (profiled[0] / "profile" / f"rank-{rank}.txt").read_text().splitlines()
    ms = {line[:16].strip(): float(line[16:].split()[0]) for line in lines[:5]}
    for part, prefix in (("update", "ProfilerStep#"), ("data wait", "data wait"), ("communication", "gloo:")):
        total = sum(event["dur"] for event in found if event["name"].startswith(prefix))
        assert ms[part] == pytest.approx(total / 3000, rel=0.01, abs=0.01), part
    assert ms["communication"] > 0
    assert ms["operators"] > 0
    assert ms["kernels"] == 0


def test_the_training_is_the_same(profiled):
    _, outcome, plain = profiled
    assert outcome.result["weights_sha256"] == plain.result["weights_sha256"]


def test_a_training_too_short_says_that_nothing_was_traced(digits, tmp_path, capfd):
    assert train(ALONE, job(digits, tmp_path, recipe(4, profile=3)), lambda _: []).result
    assert "no update was traced" in capfd.readouterr().out
    assert not (tmp_path / "profile").exists()


def test_a_cached_batch_is_the_first_one_each_time(digits, tmp_path):
    asked = job(digits, tmp_path, recipe(9, cached_batch=True))
    data = TrainingData.open(asked, ALONE)
    with data.train_loader(range(256), 0) as loader:
        first = next(loader)
        images_BHWC, labels_B = first.images_BHWC.clone(), first.labels_B.clone()
    with data.batches(range(256), 0) as batches:
        for _ in range(6):
            batch = next(batches)
            assert torch.equal(batch.images_BHWC, images_BHWC)
            assert torch.equal(batch.labels_B, labels_B)


def test_a_net_of_one_batch_says_so(digits, tmp_path):
    result: Any = train(ALONE, job(digits, tmp_path, recipe(2, cached_batch=True)), lambda _: []).result
    assert result["difference"]["train.cached_batch"] == [False, True]


def test_kernels_of_a_gpu_are_told_apart_from_communication():
    """Rows as a GPU's profile has them: there is no GPU here."""
    from types import SimpleNamespace

    from torch.autograd import DeviceType

    def row(key, on_gpu, count, cpu=0.0, own=0.0, device=0.0):
        kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
        return SimpleNamespace(
            key=key, device_type=kind, count=count, cpu_time_total=cpu, self_cpu_time_total=own,
            device_time_total=device, self_device_time_total=device,
        )  # fmt: skip

    rows: list[Any] = [
        row("ProfilerStep*", False, 2, cpu=20_000, own=1),
        row("ProfilerStep*", True, 2, device=19_000),
        row("data wait", False, 2, cpu=400),
        row("aten::convolution", False, 52, own=3_000),
        row("sm90_gemm", True, 104, device=14_000),
        row("ncclDevKernel_AllReduce", True, 4, device=2_000),
    ]
    expected = {"update": 10, "data wait": 0.2, "communication": 1, "operators": 1.5, "kernels": 7}
    assert parts(rows) == pytest.approx(expected)
