"""What is said where the numbers go wrong, against values computed apart."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from cluster.layout import Worker
from pipelines.shards.manifest import read_manifest
from pipelines.shards.order import training_order
from pipelines.shards.reader import Shards
from tests.processes import job
from vgg.net.precision import MixedPrecision
from vgg.recipes.registry import RECIPES
from vgg.training.accounting import summed
from vgg.training.divergence import STUCK_STEPS, stuck
from vgg.training.loop import train
from vgg.training.optimizer import make_optimizer

RECIPE = RECIPES["digits"][1]
CPU = torch.device("cpu")


def test_a_divergence_names_step_images_and_checkpoint(digits, tmp_path):
    wild = replace(
        RECIPE,
        model=replace(RECIPE.model, width=0.125),
        train=replace(RECIPE.train, steps=20, checkpoint_steps=1, log_steps=1),
        optim=replace(RECIPE.optim, lr=3.0),
    )
    said = train(Worker(0, 1, 0, CPU, 1), job(digits, tmp_path, wild), lambda _: []).problem
    assert said is not None
    step = int(said.partition(" at step ")[2].partition(",")[0])
    _, images = training_order(0, (step - 1) * 256, 256, 1433)
    names = Shards(digits, read_manifest(digits), "train")
    assert f"at step {step}, on images {names.key(int(images[0]))}, {names.key(int(images[1]))}, " in said
    assert "and 252 others" in said
    if step > 1:
        assert f"the checkpoint of step {step - 1} is kept in {tmp_path}" in said


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_a_loss_that_stays_where_guessing_is_is_called_that(classes):
    guessing = math.log(classes)
    warning = stuck([guessing * (1 + 0.002 * (-1) ** i) for i in range(STUCK_STEPS)], classes)
    assert warning is not None
    assert f"ln {classes} = {guessing:.3f}" in warning
    assert "--optim.lr" in warning


@pytest.mark.parametrize(
    "losses",
    [
        [math.log(10)] * (STUCK_STEPS - 1),  # too few
        [1.0] * STUCK_STEPS,
        [math.log(10) - 0.001 * i for i in range(STUCK_STEPS)],  # it leaves
        [math.log(10)] * (STUCK_STEPS // 2) + [2.2] * (STUCK_STEPS // 2),
    ],
)
def test_other_losses_are_not(losses):
    assert stuck(losses, 10) is None


def test_one_class_is_never_stuck():
    assert stuck([0.0] * STUCK_STEPS, 1) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_gradient_norm_is_that_of_all_parameters(dtype):
    """After an update, with a loss scaler or without."""
    net = nn.Linear(3, 2)
    expected_net = copy.deepcopy(net)
    expected_net(torch.ones(4, 3)).square().sum().backward()
    gradients = [parameter.grad for parameter in expected_net.parameters() if parameter.grad is not None]
    expected = float(torch.cat([gradient.flatten() for gradient in gradients]).double().norm())
    optimizer, scaler = make_optimizer(net, RECIPE.optim), MixedPrecision(dtype, CPU).scaler
    scaler.scale(net(torch.ones(4, 3)).square().sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    hits = torch.tensor(7)
    window = summed([torch.tensor([1.0, 0.5])], hits, net, Worker(0, 1, 0, CPU, 1), 2)
    assert window.gradient_norm == pytest.approx(expected, rel=1e-6)
    assert (window.losses, window.hits) == ([1.5], 7)
    assert hits == 0
