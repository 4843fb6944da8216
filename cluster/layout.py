"""How a job is laid out over the cluster: workers, devices, cores; it changes the speed, never the result."""

from dataclasses import dataclass
from typing import Literal

import torch


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
