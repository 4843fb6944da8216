"""Speed of the training's own step, and its share of what the hardware allows."""

import math
import statistics
import time
from typing import Any, Literal, cast

import torch
from torch import nn

from benchmarks.agreement import inputs, starting_state
from benchmarks.roofline import least_step_seconds, seconds_per_call, synchronize
from cluster.layout import Layout, Worker
from cluster.parallel.choose import gradient_reducer
from vgg.net.architecture import Architecture, training_flops
from vgg.net.module import VGG
from vgg.net.precision import MixedPrecision
from vgg.recipes.schema import Optim
from vgg.training.dropout import MaskSource
from vgg.training.optimizer import make_optimizer
from vgg.training.step import train_step
from vgg.weights.state import weights_sha256

EAGER_CONTIGUOUS, EAGER, COMPILED = "eager contiguous", "eager channels_last", "compiled channels_last"

WARM_UP_STEPS = 3
# So small that training on noise cannot make the loss diverge: NaNs draw less power and run faster.
LEARNING_RATE = 1e-6

# The data sheet's dense bf16 rate, in FLOP/s.
NOMINAL = {"H200": 989e12}


class Update:
    """One update of the training's own step on images in memory, to be called again and again."""

    def __init__(
        self,
        architecture: Architecture,
        mode: str,
        *,
        device: torch.device,
        batch: int,
        micro_batch: int,
        dtype: torch.dtype = torch.bfloat16,
        reduce: Literal["ddp", "fixed-order"] = "ddp",
    ) -> None:
        memory_format = torch.contiguous_format if mode == EAGER_CONTIGUOUS else torch.channels_last
        self._net = VGG(architecture)
        self._net.load_state_dict(starting_state(architecture))
        self._net.to(device).to(memory_format=memory_format)
        # Without a reset, later nets exceed the compiler's limit on variants of one forward() and silently run
        # eager.
        torch.compiler.reset()
        forward = cast(nn.Module, torch.compile(self._net)) if mode == COMPILED else self._net
        self._optimizer = make_optimizer(self._net, Optim(lr=LEARNING_RATE))
        self._precision = MixedPrecision(dtype, device)
        images_BCHW, self._labels_B = inputs(architecture, batch, device)
        self._images_BCHW = images_BCHW.contiguous(memory_format=memory_format)
        alone, layout = Worker(0, 1, 0, device, 1), Layout(reduce=reduce, micro_batch=micro_batch)
        self._reducer = gradient_reducer(forward, alone, layout, batch, self._images_BCHW[:1])
        rows, dtype = range(batch), self._precision.dtype
        self._masks = MaskSource(0, rows, self._net.hidden, 0.5, device=device, dtype=dtype)
        self._step = 0
        self._losses = torch.zeros(1)

    def __call__(self) -> None:
        """Update with dropout masks that a thread has drawn meanwhile, as the training loop does."""
        self._losses = train_step(
            self._reducer,
            self._optimizer,
            self._precision,
            self._images_BCHW,
            self._labels_B,
            self._masks.of(self._step),
            lr=LEARNING_RATE,
        )
        self._step += 1

    def loss(self) -> float:
        """Mean loss of the last update, in nats; waits for the device."""
        return self._losses.sum().item()

    def weights_sha256(self) -> str:
        """Digest of the weights as they are; waits for the device."""
        return weights_sha256(self._net.state_dict())


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
    """Images/s of `Update`, timed for about `seconds` after a warm-up.

    RuntimeError if the loss is not finite.
    """
    update = Update(architecture, mode, device=device, batch=batch, micro_batch=micro_batch)
    started = time.perf_counter()
    for _ in range(WARM_UP_STEPS):
        update()
    synchronize(device)
    warm_up = time.perf_counter() - started
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds_per_step = seconds_per_call(update, device, seconds=seconds)
    loss = update.loss()
    if not math.isfinite(loss):
        raise RuntimeError(f"the loss is {loss}: the speed of such a step means nothing")
    return {
        **shares(architecture, batch, statistics.median(seconds_per_step), ceilings, nominal_rate(device)),
        "seconds_per_step": seconds_per_step,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "warm_up_seconds": warm_up,
        "loss": loss,
    }


def shares(
    architecture: Architecture, batch: int, step_seconds: float, ceilings: dict[str, Any], nominal: float | None
) -> dict[str, Any]:
    """Images/s of a step, and its shares of the measured, the nominal and the fused limit."""
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
    """The data sheet's rate in FLOP/s; None for a device that is not listed."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((rate for listed, rate in NOMINAL.items() if listed in name), None)
