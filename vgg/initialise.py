"""Weights before the first step, each a function of (seed, name of the parameter) alone."""

import hashlib
import math
from collections.abc import Mapping

import torch

from vgg.model import VGG
from vgg.recipe import Model

# Paper, section 3.1. By name, as the shapes fit: conv2_1 of A sees the 64 channels that block 1 puts out in
# every configuration, and conv3_1, conv3_2 likewise.
SHALLOWER_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8")


def initialise(net: VGG, scheme: str, seed: int) -> None:
    """Set every parameter; biases to zero.

    glorot: uniform in ±sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010, equation 16). normal: standard
    deviation 0.01. printed: variance 0.01, the paper to the letter. torchvision: normal with variance
    2 / fan_out for convolutions, standard deviation 0.01 for linear layers.
    """
    for name, parameter in net.named_parameters():
        if name.endswith(".bias"):
            weights = torch.zeros(parameter.shape)
        else:
            weights = _weights(tuple(parameter.shape), scheme, _stream(seed, name))
        with torch.no_grad():
            parameter.copy_(weights)


def _weights(shape: tuple[int, ...], scheme: str, stream: torch.Generator) -> torch.Tensor:
    """Drawn in float32 on the CPU: other devices' and layouts' numbers differ."""
    taps = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * taps, shape[0] * taps
    if scheme == "glorot":
        bound = math.sqrt(6 / (fan_in + fan_out))
        return torch.empty(shape).uniform_(-bound, bound, generator=stream)
    standard_deviations = {
        "normal": 0.01,
        "printed": 0.1,
        "torchvision": math.sqrt(2 / fan_out) if len(shape) == 4 else 0.01,
    }
    return torch.empty(shape).normal_(0, standard_deviations[scheme], generator=stream)


def _stream(seed: int, name: str) -> torch.Generator:
    # torch seeds its CPU generator with the low 32 bits alone, so all of (seed, name) is folded into these.
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))


def start_from_shallower(net: VGG, state: Mapping[str, torch.Tensor]) -> None:
    """Take A's first four convolutions and its fully connected layers (paper, section 3.1).

    ValueError naming the first layer whose shape differs.
    """
    _take(net, state, [f"{layer}.{kind}" for layer in SHALLOWER_LAYERS for kind in ("weight", "bias")])


def start_from_checkpoint(net: VGG, state: Mapping[str, torch.Tensor]) -> None:
    """Take every layer. ValueError naming the first that is missing, differs in shape, or is too many."""
    _take(net, state, [name for name, _ in net.named_parameters()])
    if extra := sorted(set(state) - set(dict(net.named_parameters()))):
        raise ValueError(f"--model.start-from: the checkpoint has {extra[0]}, which this net lacks")


def starting_weights(net: VGG, model: Model, seed: int, state: Mapping[str, torch.Tensor] | None) -> None:
    """What `--model.initialisation` asks for; `state` holds the weights of `--model.start-from`."""
    if model.initialisation == "checkpoint":
        assert state is not None
        start_from_checkpoint(net, state)
    elif model.initialisation == "shallower":
        assert state is not None
        initialise(net, "normal", seed)
        start_from_shallower(net, state)
    else:
        initialise(net, model.initialisation, seed)


def _take(net: VGG, state: Mapping[str, torch.Tensor], names: list[str]) -> None:
    """All of them or, where one does not fit, none."""
    for name in names:
        wanted = net.get_parameter(name)
        if name not in state or state[name].shape != wanted.shape:
            there = f"has shape {tuple(state[name].shape)}" if name in state else "is missing"
            raise ValueError(
                f"--model.start-from: {name} {there} in the checkpoint, this net "
                f"({net.architecture.configuration}, side {net.architecture.side}, "
                f"{net.architecture.classes} classes) wants {tuple(wanted.shape)}"
            )
    with torch.no_grad():
        for name in names:
            net.get_parameter(name).copy_(state[name])
