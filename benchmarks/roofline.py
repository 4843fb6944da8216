"""The measured limits of the hardware, and the least time of a training step under them."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from vgg.net.architecture import Architecture, layers


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_per_call(
    call: Callable[[], object], device: torch.device, *, seconds: float, rounds: int = 5
) -> list[float]:
    """Mean seconds per call in each of `rounds` that together last about `seconds`; warm up before.

    A round ends when the device is idle, so that the host's time between calls counts as in a training.
    """

    def timed(calls: int) -> float:
        synchronize(device)
        started = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize(device)
        return (time.perf_counter() - started) / calls

    calls = max(1, round(seconds / rounds / timed(1)))
    return [timed(calls) for _ in range(rounds)]


def matrix_rate(device: torch.device, side: int, seconds: float, dtype: torch.dtype = torch.bfloat16) -> float:
    """FLOP/s of multiplying two matrices [side, side]."""
    # Random numbers: zeros draw less power and run at a higher clock.
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    for _ in range(3):
        torch.mm(a, b, out=out)
    took = seconds_per_call(lambda: torch.mm(a, b, out=out), device, seconds=seconds)
    return 2 * side**3 / statistics.median(took)


def copy_bandwidth(device: torch.device, size: int, seconds: float) -> float:
    """Bytes/s, read plus written, of copying `size` bytes within the device's memory."""
    source = torch.randint(0, 256, (size,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    target.copy_(source)
    took = seconds_per_call(lambda: target.copy_(source), device, seconds=seconds)
    return 2 * size / statistics.median(took)


def ceilings(device: torch.device, seconds: float) -> dict[str, Any]:
    """The two rates that bound every kernel, each measured for `seconds`."""
    side, size = (8192, 2**31) if device.type == "cuda" else (512, 2**26)
    return {
        "matrix_flop_per_s": matrix_rate(device, side, seconds),
        "matrix": f"bf16, {side} x {side} x {side}",
        "copy_bytes_per_s": copy_bandwidth(device, size, seconds),
        "copy": f"{size} bytes within the device's memory, read plus written",
    }


def least_step_seconds(
    architecture: Architecture, batch: int, *, flop_per_s: float, bytes_per_s: float
) -> float:
    """Least seconds of one bf16 update with every elementwise operation and pooling fused into matrix kernels.

    The sum over kernels of max(FLOP / rate, bytes / bandwidth). Three kernels a layer: its output, and the
    gradients of its weights and of its input (not of the first layer's input); each moves two maps and the
    weights once, in bf16. Then SGD reads weight, gradient and velocity in float32 and writes two of them, and
    the weights are cast to bf16.
    """
    total = 0.0
    for place, layer in enumerate(layers(architecture)):
        if not layer.weights:
            continue
        maps = batch * (layer.inputs * layer.height * layer.width + layer.outputs)
        kernel = max(2 * batch * layer.multiply_adds / flop_per_s, 2 * (maps + layer.weights) / bytes_per_s)
        total += kernel * (2 if place == 0 else 3)
        total += layer.parameters * (5 * 4 + 4 + 2) / bytes_per_s
    return total
