"""How a job is laid out over the cluster: workers, devices, cores; it changes the speed, never the result."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from cluster.progress import Progress
from cluster.stop_request import StopRequest


@dataclass(frozen=True)
class Layout:
    """Where a job runs. It changes the speed, never the mathematics."""

    workers: int = 1
    """Data-parallel workers, each on one GPU or on CPU cores alone. A training also takes a range, 2..4: as
    many as there is room for, fewer when some are lost, more again when there is room."""
    fewest_workers: int | None = None
    """What a range of --layout.workers begins with: a training goes on as long as it has so many. None: the
    number of workers is fixed."""
    micro_batch: int | None = None
    """Images of one forward and backward pass on a worker. None: the worker's whole share."""
    reduce: Literal["auto", "fixed-order", "ddp"] = "auto"
    """fixed-order: gradients of eighths of the batch, summed along one tree: the result is bit-identical on
    1 to 8 workers. ddp: PyTorch's DDP, which sends gradients while others are computed. auto: fixed-order
    on CPUs, where nothing can overlap, and ddp on GPUs."""
    fc: Literal["auto", "gathered", "all-reduce"] = "auto"
    """How workers get the gradients of fully connected layers. gathered: they exchange each row's inputs and
    output gradients, a seventh of the bytes for VGG-16 on 8 workers, and form the product themselves.
    all-reduce: they sum them like all others. auto: gathered, except for one worker under ddp."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: GPUs if any node of the cluster has one, waiting for as many as there are workers; else CPUs."""
    decode: Literal["cpu", "regions", "gpu"] = "cpu"
    """cpu: decode and resize on the CPU. regions: decode on the CPU, resize on the GPU. gpu: both there."""
    recompute: bool = False
    """Keep only the last output of each block of convolutions for the backward pass, which computes the others
    again: less memory, a third more time, the same bits."""
    prefetch: int = 2
    """Prefetch depth: batches that each worker prepares ahead, at batch × side² × 3 bytes each."""
    stage_dir: str | None = None
    """Folder on each node's local disk that data at a URI is downloaded to. None: one below /tmp."""
    stage_gb: float | None = None
    """Disk space for downloaded data sets; unused ones are removed to make room. None: all that is free."""
    cpus_per_worker: int | None = None
    """Cores reserved for each worker; also its number of CPU threads. None: on GPUs a node's cores shared by
    its GPUs; on CPUs one, as torch's results there depend on the number of threads."""
    max_failures: int = 3
    """How often a crashed worker group is restarted from the last checkpoint; with a range of workers, between
    two times that there are more of them."""
    wait_seconds: float = 30.0
    """How long to wait for free resources on the cluster before giving up."""
    grace_seconds: float = 25.0
    """How long SIGTERM or Ctrl-C waits for the workers to save the step they are at, before the command ends
    without them."""
    hang_seconds: float = 300.0
    """After how long a worker that does not go on is killed, so that the workers start again from the newest
    checkpoint; longer where steps, the first of them or a checkpoint take longer. It is named long before. 0:
    it is only named."""

    @property
    def is_range(self) -> bool:
        """Whether the number of workers may change while the job runs."""
        return self.fewest_workers is not None

    @property
    def asked_workers(self) -> str:
        """The number of workers as `--layout.workers` takes it."""
        return f"{self.fewest_workers}..{self.workers}" if self.is_range else str(self.workers)


@dataclass(frozen=True)
class Worker:
    """One process of a job."""

    rank: int
    world: int
    local_rank: int
    device: torch.device
    threads: int
    tell: Callable[[Any], None] | None = None
    """Sends a message to the process that started the workers; None where nobody listens."""
    stop: StopRequest = field(default_factory=StopRequest, compare=False)
    """What the workers are asked while they run."""
    progress: Progress = field(default_factory=Progress, compare=False)
    """What it is at, as it notes itself."""
    export: Callable[..., None] | None = None
    """Shows a number by its name, value and tags to who scrapes the cluster; None where nobody does."""
