"""`--layout.recompute`: the same training in less memory, and what the dry run says of both."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from cluster.layout import Layout, Worker
from tests.processes import job
from vgg.net.architecture import Architecture
from vgg.net.initialise import initialise
from vgg.net.module import VGG
from vgg.recipes.registry import RECIPES
from vgg.training.cost import largest_micro_batch, memory_bytes
from vgg.training.loop import train

RECIPE = RECIPES["digits"][1]
ALONE = Worker(0, 1, 0, torch.device("cpu"), 1)
ROWS = 4


def saved_bytes(net, images_BCHW):
    """Bytes of the activations that autograd keeps of a forward pass, each memory once; parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes(), tensor  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        scores = net(images_BCHW)
    return sum(size for size, _ in kept.values()), scores


@pytest.mark.parametrize("configuration", ["A", "D"])
def test_the_dry_run_says_what_autograd_keeps(configuration):
    architecture = Architecture(configuration, classes=10, side=64, width=0.25)
    net = VGG(architecture)
    initialise(net, "glorot", seed=0)
    images_BCHW = torch.randn(ROWS, 3, 64, 64)
    recipe = replace(RECIPE, train=replace(RECIPE.train, batch=ROWS))
    found, _ = saved_bytes(net, images_BCHW)
    assert memory_bytes(recipe, architecture, Layout())["activations"] == pytest.approx(found, rel=0.02)
    net.recomputes = True
    between, scores = saved_bytes(net, images_BCHW)
    told = memory_bytes(recipe, architecture, Layout(recompute=True))["activations"]
    assert between < told < found
    scores.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_the_largest_micro_batch_is_what_fits():
    """Within a limit from what 40 images of a pass take; at most a worker's share; none if none fits."""
    recipe = RECIPES["paper-d"][1]
    architecture = recipe.architecture(1000)
    fits, exceeds = [
        sum(memory_bytes(recipe, architecture, Layout(micro_batch=rows)).values()) for rows in (40, 41)
    ]
    for limit in (fits, exceeds - 1):
        assert largest_micro_batch(recipe, architecture, Layout(), limit) == 40
    assert largest_micro_batch(recipe, architecture, Layout(), exceeds) == 41
    assert largest_micro_batch(recipe, architecture, Layout(workers=3), 2**50) == 86
    assert largest_micro_batch(recipe, architecture, Layout(), 2**20) == 0
    assert largest_micro_batch(recipe, architecture, Layout(recompute=True), exceeds) > 41


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("reduce", ["ddp", "fixed-order"])
def test_the_training_has_the_same_bits(digits, tmp_path, precision, reduce):
    recipe = replace(RECIPE, train=replace(RECIPE.train, steps=3, precision=precision))
    found: list[Any] = [
        train(ALONE, job(digits, tmp_path / str(again), recipe, layout=layout), lambda _: []).result
        for again, layout in enumerate((Layout(reduce=reduce), Layout(reduce=reduce, recompute=True)))
    ]
    assert found[0]["losses"] == found[1]["losses"]
    assert found[0]["weights_sha256"] == found[1]["weights_sha256"]
