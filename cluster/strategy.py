"""How a training is laid over the cluster, and what that means for a net and its gradients."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cluster.reduce import LEAVES


@dataclass(frozen=True)
class Layout:
    """Where a training runs. It changes the speed, never the mathematics."""

    workers: int = 1
    """Data-parallel workers, each on one GPU or on `cpus_per_worker` cores."""
    micro_batch: int | None = None
    """Images of one forward and backward pass on a worker. None: the worker's whole share."""
    reduce: Literal["auto", "fixed-order", "ddp"] = "auto"
    """fixed-order: gradients of eighths of the batch, added up along one tree, so that the result is bit for
    bit the same on 1 to 8 workers. ddp: PyTorch's DDP, which sends gradients while others are computed. auto:
    fixed-order on CPUs, where there is nothing to overlap, and ddp on GPUs."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: GPUs when the cluster has one for every worker, else CPUs."""
    decode: Literal["cpu", "regions", "gpu"] = "cpu"
    """cpu: files are decoded and resized there. regions: decoded there, resized on the GPU. gpu: both there."""
    prefetch: int = 2
    """Batches of each worker that stand ready; more even out a slow disk, at batch × side² × 3 bytes each."""
    stage_dir: str | None = None
    """Folder of each node's local disk that data at a URI is brought to. None: one below /tmp."""
    stage_gb: float | None = None
    """What staged data sets may take there; unused ones make room. None: what is free."""
    cpus_per_worker: int = 1
    """Cores reserved for each worker; also its number of CPU threads."""
    max_failures: int = 3
    """Times a crashed worker group is started again from the last checkpoint."""
    wait_seconds: float = 30.0
    """How long to wait for the cluster to have room before giving up."""


@dataclass(frozen=True)
class Worker:
    """One process of a training."""

    rank: int
    world: int
    local_rank: int
    device: torch.device
    threads: int


def in_fixed_order(layout: Layout, worker: Worker, batch: int) -> bool:
    """Whether gradients are added up along the fixed tree."""
    possible = worker.world <= LEAVES <= batch
    assert possible or layout.reduce != "fixed-order"
    if layout.reduce == "auto":
        return possible and worker.device.type == "cpu"
    return layout.reduce == "fixed-order"


def data_parallel(net: nn.Module, worker: Worker, example: torch.Tensor) -> nn.Module:
    """The net with its gradients summed over workers at each backward pass; `example` is an input of one row.

    DDP divides by the number of workers, which is the exact mean over the batch only when they share it
    evenly; a plain sum lets the loss carry the exact weights instead.
    """
    if worker.world == 1:
        return net
    devices = [worker.device] if worker.device.type == "cuda" else None
    ddp = DistributedDataParallel(net, device_ids=devices, gradient_as_bucket_view=True)
    ddp.register_comm_hook(None, _sum_gradients)
    # DDP regroups its buckets after the first backward pass, which changes the order in which a ring adds
    # gradients up. One pass ahead of all steps gives a resumed training the buckets of an undisturbed one.
    ddp(example).sum().backward()
    ddp.zero_grad()
    return ddp


def _sum_gradients(_state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


def sum_over_workers(values: torch.Tensor) -> torch.Tensor:
    """The element-wise sum over workers, in place; the tensor lies on the worker's device."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def first_problem(problem: str | None) -> str | None:
    """What the lowest rank with a problem says, on every worker: they stop together or go on together."""
    if not dist.is_initialized():
        return problem
    problems: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    return next((p for p in problems if p is not None), None)
