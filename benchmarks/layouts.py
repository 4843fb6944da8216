"""What summing gradients in a fixed order costs on one device, what the host does for a step, and whether the
weights have the same bits twice.

Of several workers on one device nothing is measured: NCCL refuses two ranks on a GPU, and Gloo has not the
collective operations for its memory that the layouts use.
"""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any, Literal

import torch

from benchmarks.roofline import seconds_per_call, synchronize
from benchmarks.speed import EAGER, Update
from vgg.net.architecture import Architecture
from vgg.net.precision import set_gpu_numerics

Order = Literal["ddp", "fixed-order"]
ORDERS: tuple[Order, ...] = ("ddp", "fixed-order")
ROUNDS = 5
STEPS = 3


def layouts(architecture: Architecture, *, device: torch.device, batch: int, seconds: float) -> dict[str, Any]:
    """Seconds of a step under each way of summing, in turns, and their ratio; seconds until the host has handed
    the device a step; whether two trainings under the fixed order end with the same weights."""
    updates = {order: _update(architecture, order, device, batch) for order in ORDERS}
    for update in updates.values():
        update()
    taken: dict[Order, list[float]] = {order: [] for order in ORDERS}
    for turn in range(ROUNDS):
        for order in ORDERS[:: 1 if turn % 2 else -1]:
            taken[order] += seconds_per_call(updates[order], device, seconds=seconds / ROUNDS, rounds=1)
    host = {order: _host_seconds(updates[order], device) for order in ORDERS}
    pairs = zip(*(taken[order] for order in reversed(ORDERS)), strict=True)
    return {
        "seconds_per_step": taken,
        "fixed_order_times_ddp": statistics.median(fixed / plain for fixed, plain in pairs),
        "host_seconds_per_step": host,
        "same_weights_twice": len({_weights_after(architecture, device, batch) for _ in range(2)}) == 1,
    }


def _update(architecture: Architecture, order: Order, device: torch.device, batch: int) -> Update:
    return Update(architecture, EAGER, device=device, batch=batch, micro_batch=batch, reduce=order)


def _host_seconds(update: Update, device: torch.device) -> float:
    """Median over steps that begin on an idle device; on a CPU, where the host is the device, the step's."""
    found = []
    for _ in range(ROUNDS):
        synchronize(device)
        started = time.perf_counter()
        update()
        found.append(time.perf_counter() - started)
    synchronize(device)
    return statistics.median(found)


def _weights_after(architecture: Architecture, device: torch.device, batch: int) -> str:
    """Digest of the weights after some updates, in a process of its own: cuBLAS reads its setting once."""
    given = json.dumps([asdict(architecture), device.type, batch])
    command = [sys.executable, "-m", "benchmarks.layouts", given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"updates with deterministic kernels failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def main() -> None:
    """Update under the fixed order as `--train.deterministic` asks, and print the weights' digest."""
    architecture, device_type, batch = json.loads(sys.argv[1])
    device = torch.device(device_type)
    set_gpu_numerics(device, deterministic=True)
    update = _update(Architecture(**architecture), "fixed-order", device, batch)
    for _ in range(STEPS):
        update()
    print(update.weights_sha256())


if __name__ == "__main__":
    main()
