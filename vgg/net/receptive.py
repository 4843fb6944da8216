"""Receptive fields: why the paper stacks small convolutions (section 2.3)."""

from collections.abc import Sequence

from vgg.net.architecture import Architecture, layers


def receptive_field(kernels: Sequence[int], strides: Sequence[int] | None = None) -> int:
    """Side in pixels of what one output of these layers sees, one after the other; strides of 1 by default."""
    side, spacing = 1, 1
    for kernel, stride in zip(kernels, strides or [1] * len(kernels), strict=True):
        side += (kernel - 1) * spacing
        spacing *= stride
    return side


def last_receptive_field(architecture: Architecture) -> int:
    """Of the net's last feature map, in pixels of the crop, which may be smaller."""
    found = [layer for layer in layers(architecture) if layer.kind in ("conv", "pool")]
    return receptive_field([each.kernel for each in found], [2 if each.kind == "pool" else 1 for each in found])


def stack_weights(kernels: Sequence[int], channels: int) -> int:
    """Weights of convolutions from and to this many channels each, without biases."""
    return sum(kernel**2 * channels**2 for kernel in kernels)
