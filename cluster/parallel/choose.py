"""Which reducer a layout asks for, and whether the layout can work at all."""

from math import isfinite

import torch
from torch import nn

from cli.errors import require
from cluster.layout import Layout, Worker
from cluster.parallel.ddp import DDPReducer
from cluster.parallel.fixed_order import FixedOrderReducer
from cluster.parallel.reducer import GradientReducer
from cluster.parallel.tree_sum import LEAVES


def gradient_reducer(
    net: nn.Module, worker: Worker, layout: Layout, batch: int, example: torch.Tensor
) -> GradientReducer:
    """The reducer of `--layout.reduce`; `example` is an input of one row on the worker's device."""
    gather = layout.fc == "gathered"
    if uses_fixed_order(layout, worker, batch):
        gather |= layout.fc == "auto"
        return FixedOrderReducer(net, worker, batch, layout.micro_batch, gather=gather)
    gather |= layout.fc == "auto" and worker.world > 1
    return DDPReducer(net, worker, batch, layout.micro_batch, example, gather=gather)


def uses_fixed_order(layout: Layout, worker: Worker, batch: int) -> bool:
    """Whether gradients are added along the fixed tree; `auto` does so on CPUs, where nothing can overlap."""
    most = max(worker.world, layout.workers if layout.is_range else 1)  # one way for all numbers of workers
    possible = most <= LEAVES <= batch
    assert possible or layout.reduce != "fixed-order"
    if layout.reduce == "auto":
        return possible and worker.device.type == "cpu"
    return layout.reduce == "fixed-order"


def check_layout(layout: Layout, batch: int) -> None:
    """UserError naming the first flag whose value cannot work for a global batch of so many rows."""
    require(
        layout.reduce != "fixed-order" or layout.workers <= LEAVES <= batch,
        "--layout.reduce",
        f"ddp for more than {LEAVES} workers or a batch of fewer than {LEAVES}",
    )
    require(1 <= layout.workers <= batch, "--layout.workers", f"from 1 to the batch of {batch}")
    fewest = layout.fewest_workers
    at_most = f"from 1 to the {layout.workers} of --layout.workers"
    require(fewest is None or 1 <= fewest <= layout.workers, "--layout.fewest-workers", at_most)
    require(layout.micro_batch is None or layout.micro_batch >= 1, "--layout.micro-batch", "at least 1")
    cores = layout.cpus_per_worker
    require(cores is None or 1 <= cores <= 4096, "--layout.cpus-per-worker", "from 1 to 4096")
    require(1 <= layout.prefetch <= 1024, "--layout.prefetch", "from 1 to 1024")
    require(layout.max_failures >= 0, "--layout.max-failures", "not negative")
    waits = layout.wait_seconds >= 0 and isfinite(layout.wait_seconds)
    require(waits, "--layout.wait-seconds", "not negative, and finite")
    ends = layout.grace_seconds >= 0 and isfinite(layout.grace_seconds)
    require(ends, "--layout.grace-seconds", "not negative, and finite")
    hangs = layout.hang_seconds >= 0 and isfinite(layout.hang_seconds)
    require(hangs, "--layout.hang-seconds", "not negative, and finite")
    stages = layout.stage_gb is None or (layout.stage_gb > 0 and isfinite(layout.stage_gb))
    require(stages, "--layout.stage-gb", "positive and finite")
