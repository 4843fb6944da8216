"""How fast the training's own step runs, beside what the hardware allows."""

import math
import statistics
import time
from typing import Any, cast

import torch
from torch import nn

from benchmarks.agreement import inputs, starting_state
from benchmarks.roofline import least_step_seconds, seconds_per_call, synchronize
from cluster.layout import Worker
from cluster.parallel.ddp import DDPReducer
from vgg.net.architecture import Architecture, training_flops
from vgg.net.module import VGG
from vgg.net.precision import MixedPrecision
from vgg.recipes.schema import Optim
from vgg.training.dropout import dropout_masks
from vgg.training.optimizer import make_optimizer
from vgg.training.step import train_step

EAGER_CONTIGUOUS, EAGER, COMPILED = "eager contiguous", "eager channels_last", "compiled channels_last"

# The data sheet's dense bf16 rate, in FLOP/s.
NOMINAL = {"H200": 989e12}


def speed(
    architecture: Architecture,
    mode: str,
    ceilings: dict[str, Any],
    *,
    device: torch.device,
    batch: int,
    micro_batch: int,
    seconds: float,
) -> dict[str, Any]:
    """Images/s of drawing dropout masks and updating in bf16, as the training loop does, on images at hand.

    Timed for about `seconds` after a warm-up. RuntimeError where the loss is no number.
    """
    layout = torch.contiguous_format if mode == EAGER_CONTIGUOUS else torch.channels_last
    net = VGG(architecture)
    net.load_state_dict(starting_state(architecture))
    net.to(device).to(memory_format=layout)
    # Without a reset, the compiler's limit on variants of one forward() turns later nets eager, silently.
    torch.compiler.reset()
    forward = cast(nn.Module, torch.compile(net)) if mode == COMPILED else net
    # So small a rate that noise cannot make the loss diverge: NaNs draw less power and run faster.
    lr = 1e-6
    optimizer = make_optimizer(net, Optim(lr=lr))
    precision = MixedPrecision(torch.bfloat16, device)
    images_BCHW, labels_B = inputs(architecture, batch, device)
    images_BCHW = images_BCHW.contiguous(memory_format=layout)
    reducer = DDPReducer(forward, Worker(0, 1, 0, device, 1), batch, micro_batch, images_BCHW[:1])
    steps, losses = 0, torch.zeros(1)

    def step() -> None:
        nonlocal steps, losses
        masks = dropout_masks(0, steps, range(batch), net.hidden, 0.5, device=device, dtype=torch.bfloat16)
        losses = train_step(reducer, optimizer, precision, images_BCHW, labels_B, masks, lr=lr)
        steps += 1

    started = time.perf_counter()
    for _ in range(3):
        step()
    synchronize(device)
    warm_up = time.perf_counter() - started
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    took = seconds_per_call(step, device, seconds=seconds)
    loss = losses.sum().item()
    if not math.isfinite(loss):
        raise RuntimeError(f"the loss is {loss}: speeds of numbers that are none mean nothing")
    return {
        **shares(architecture, batch, statistics.median(took), ceilings, nominal_rate(device)),
        "seconds_per_step": took,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "warm_up_seconds": warm_up,
        "loss": loss,
    }


def shares(
    architecture: Architecture, batch: int, step_seconds: float, ceilings: dict[str, Any], nominal: float | None
) -> dict[str, Any]:
    """A step's images/s, and how much of what the hardware allows that is."""
    flop_per_s = training_flops(architecture) * batch / step_seconds
    rate, bandwidth = ceilings["matrix_flop_per_s"], ceilings["copy_bytes_per_s"]
    least = least_step_seconds(architecture, batch, flop_per_s=rate, bytes_per_s=bandwidth)
    return {
        "images_per_s": batch / step_seconds,
        "flop_per_image": training_flops(architecture),
        "share_of_matrix_rate": flop_per_s / rate,
        "share_of_nominal_rate": None if nominal is None else flop_per_s / nominal,
        "share_of_least_time": least / step_seconds,
    }


def nominal_rate(device: torch.device) -> float | None:
    """What the data sheet promises, in FLOP/s; None for a device not listed."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((rate for listed, rate in NOMINAL.items() if listed in name), None)
