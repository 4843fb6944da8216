"""Opens a training on one worker: its data, its net and, on rank 0, what it starts with."""

from dataclasses import dataclass

from cluster.layout import Worker
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
        if worker.rank:
            return cls(worker, job, folder, data, net, None, None)
        lease = Lease(folder, job.attempt)
        lease.acquire()
        try:
            start = choose_start(folder, job.plan, precision, worker.device, net, open_net)
        except BaseException:
            lease.release()
            raise
        return cls(worker, job, folder, data, net, start, lease)

    def close(self) -> None:
        """Let another attempt write to the run's folder."""
        if self.lease is not None:
            self.lease.release()
