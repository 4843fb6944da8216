"""Weights before the first step, each a function of (seed, name of the parameter) alone."""

import hashlib
import math
from collections.abc import Collection

import torch

from vgg.net.module import VGG


def initialise(net: VGG, scheme: str, seed: int, layers: Collection[str] | None = None) -> None:
    """Set every parameter, or those of these layers; biases to zero.

    glorot: uniform in ±sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010, equation 16). normal: standard
    deviation 0.01. printed: variance 0.01, as the paper prints. torchvision: normal with variance
    2 / fan_out for convolutions, standard deviation 0.01 for linear layers.
    """
    for name, parameter in net.named_parameters():
        if layers is not None and name.split(".")[0] not in layers:
            continue
        if name.endswith(".bias"):
            weights = torch.zeros(parameter.shape)
        else:
            weights = _weights(tuple(parameter.shape), scheme, _stream(seed, name))
        with torch.no_grad():
            parameter.copy_(weights)


def _weights(shape: tuple[int, ...], scheme: str, stream: torch.Generator) -> torch.Tensor:
    """Drawn in float32 on the CPU in one memory format: other devices and formats draw other numbers."""
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
