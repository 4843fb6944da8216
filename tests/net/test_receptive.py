"""Receptive fields, by autograd: the input pixels that one output depends on."""

import pytest
import torch
from torch import nn

from vgg.net.architecture import CONFIGURATIONS, Architecture
from vgg.net.module import VGG
from vgg.net.receptive import last_receptive_field, receptive_field, stack_weights


def seen(module: nn.Module, side: int) -> int:
    """Side of the square of input pixels that the output in the middle depends on."""
    images_BCHW = torch.rand(1, 1, side, side, dtype=next(module.parameters()).dtype, requires_grad=True)
    maps_BCHW = module(images_BCHW)
    maps_BCHW[0, 0, maps_BCHW.shape[2] // 2, maps_BCHW.shape[3] // 2].backward()
    assert images_BCHW.grad is not None
    return int((images_BCHW.grad[0, 0].abs().sum(1) > 0).sum())


@pytest.mark.parametrize("kernels", [(3,), (3, 3), (5,), (3, 3, 3), (7,), (3, 1)])
def test_of_a_stack(kernels):
    stack = nn.Sequential(*(nn.Conv2d(1, 1, kernel, padding=kernel // 2) for kernel in kernels))
    for convolution in stack:
        nn.init.ones_(convolution.weight)  # type: ignore[arg-type]
    assert receptive_field(kernels) == seen(stack, 15)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_of_a_whole_net(configuration):
    """Of averages in place of maxima, which depend on all of their inputs."""
    net = VGG(Architecture(configuration, 2, 32, 0.01))
    layers: list[nn.Module] = []
    for layer in net.convolutional:
        if layer.kind == "conv":
            convolution = nn.Conv2d(1, 1, layer.kernel, padding=layer.kernel // 2)
            nn.init.ones_(convolution.weight)
            layers.append(convolution)
        elif layer.kind == "pool":
            layers.append(nn.AvgPool2d(2))
    assert last_receptive_field(net.architecture) == seen(nn.Sequential(*layers).double(), 480)


def test_the_papers_counts():
    """Section 2.3: three 3x3 layers have 27 C² weights, one of 7x7 has 49 C²: 81 % more."""
    assert (stack_weights((3, 3, 3), 10), stack_weights((7,), 10)) == (2700, 4900)
    assert receptive_field((3, 3, 3)) == receptive_field((7,)) == 7
    assert receptive_field((3, 3)) == receptive_field((5,)) == 5
