"""What `--train.precision auto` stands for on CPUs; that all workers agree on it is in `test_loop.py`."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cluster.layout import Worker
from tests.processes import job, with_processor
from vgg.net.precision import autocast_dtype, common_precision, set_gpu_numerics, training_precision
from vgg.recipes.registry import RECIPES
from vgg.tracking.observers import training_observers
from vgg.training.loop import train

CPU = torch.device("cpu")
RECIPE = RECIPES["digits"][1]


def auto(steps):
    return replace(RECIPE, train=replace(RECIPE.train, steps=steps, precision="auto"))


HIDDEN_AMX = "avx512_bf16", "avx512_fp16"


@pytest.mark.parametrize(
    ("has", "found"),
    [
        ((), "fp32"),
        (("avx512_bf16",), "bf16"),
        (("amx_bf16",), "bf16"),
        (HIDDEN_AMX, "fp32"),
        ((*HIDDEN_AMX, "amx_bf16"), "bf16"),
    ],
)
def test_auto_trains_in_what_the_processor_multiplies(has, found):
    with with_processor(*has):
        assert training_precision("auto", CPU) == found
        assert training_precision("fp32", CPU) == "fp32"
        assert training_precision("fp16", CPU) == "fp16"


def test_a_test_stays_in_fp32():
    with with_processor("avx512_bf16"):
        assert autocast_dtype("auto", CPU) == torch.float32


def test_the_processors_flags_are_those_of_the_kernel():
    """As Linux names them on x86-64."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next(line for line in lines if line.startswith("flags")).split()
    faster = "amx_bf16" in flags or ("avx512_bf16" in flags and "avx512_fp16" not in flags)
    assert training_precision("auto", CPU) == ("bf16" if faster else "fp32")


def test_workers_that_differ_take_fp32():
    assert common_precision(["bf16", "bf16"]) == "bf16"
    assert common_precision(["bf16", "fp32"]) == "fp32"
    assert common_precision(["bf16", "fp16", "bf16"]) == "fp32"


def test_a_test_of_digits_ends_alike_on_every_cpu():
    with with_processor("avx512_bf16"):
        assert training_precision(RECIPE.train.precision, CPU) == "fp32"


@pytest.mark.parametrize(
    ("began", "processors"), [("fp32", ((), ("amx_bf16",))), ("bf16", (("amx_bf16",), ()))]
)
def test_a_resumed_training_goes_on_as_it_began(digits, tmp_path, began, processors):
    """On a node of another kind, or one that began by a version to which `auto` was fp32."""
    alone = Worker(0, 1, 0, CPU, 1)
    with with_processor(*processors[0]):
        undisturbed = train(alone, job(digits, tmp_path / "a", auto(2)), training_observers).result
        assert train(alone, job(digits, tmp_path / "b", auto(1)), training_observers).result
    with with_processor(*processors[1]):
        resumed = train(alone, job(digits, tmp_path / "b", auto(2)), training_observers).result
    assert undisturbed is not None
    assert resumed is not None
    assert resumed["precision"] == undisturbed["precision"] == began
    assert resumed["weights_sha256"] == undisturbed["weights_sha256"]


def test_deterministic_kernels_give_cublas_its_workspace(monkeypatch):
    """Of the sizes that cuBLAS's documentation names; one that is set already stays. No kernel runs."""
    gpu = torch.device("cuda")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    try:
        set_gpu_numerics(gpu, deterministic=False)
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
        set_gpu_numerics(gpu, deterministic=True)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
        set_gpu_numerics(gpu, deterministic=True)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
