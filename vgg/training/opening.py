"""Opens a training on one worker: its data, its net and, on rank 0, what it starts with."""

from dataclasses import dataclass

import torch

from cluster.layout import Worker
from cluster.parallel.choose import gradient_reducer
from cluster.parallel.reducer import GradientReducer
from pipelines.storage.folder import Folder
from vgg.net.module import VGG
from vgg.training.data import TrainingData
from vgg.training.job import Job
from vgg.training.lineage import NetOpener
from vgg.training.start import Start, choose_start
from vgg.weights.lease import Lease


@dataclass(frozen=True)
class OpenedTraining:
    """What a worker has before it communicates with the others."""

    worker: Worker
    job: Job
    folder: Folder
    """Of the run."""
    data: TrainingData
    net: VGG
    """On the CPU; its weights are set by `start` alone."""
    start: Start | None
    """On rank 0, which chooses for all."""
    lease: Lease | None
    """On rank 0, which writes for all."""

    @classmethod
    def on(cls, worker: Worker, job: Job, open_net: NetOpener, precision: str) -> "OpenedTraining":
        """Open everything without communicating. UserError where something does not fit.

        `precision`: of a training that does not resume; see `choose_start`.
        """
        data = TrainingData.open(job, worker)
        folder = Folder(job.out, "--out").underway()
        net = VGG(job.plan.architecture)
        net.recomputes = job.layout.recompute
        if worker.rank:
            return cls(worker, job, folder, data, net, None, None)
        lease = Lease(folder, job.attempt)
        lease.acquire()
        try:
            start = choose_start(folder, data, precision, worker.device, net, open_net)
        except BaseException:
            lease.release()
            raise
        return cls(worker, job, folder, data, net, start, lease)

    def close(self) -> None:
        """Let another attempt write to the run's folder."""
        if self.lease is not None:
            self.lease.release()


def open_reducer(net: VGG, worker: Worker, job: Job) -> GradientReducer:
    """How the workers' gradients become one. The net lies on the worker's device, with its weights."""
    recipe, side = job.plan.recipe, job.plan.architecture.side
    forward: torch.nn.Module = torch.compile(net) if recipe.train.compile else net  # type: ignore[assignment]
    example = torch.zeros(1, 3, side, side, device=worker.device)
    return gradient_reducer(forward, worker, job.layout, recipe.train.batch, example)
