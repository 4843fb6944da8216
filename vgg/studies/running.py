"""How a step runs: on the worker that it is itself, or on several; what it prints, tells and takes."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pynvml

from cluster.layout import Layout
from pipelines.storage.folder import Folder
from vgg.studies.record import Cost
from vgg.testing.scoring import ScoredBlock, Scorer, ScoringJob, ScoringTask
from vgg.tracking.observers import training_observers
from vgg.training.events import Event, Observer, RunContext, StepsDone
from vgg.training.job import Job, Outcome

Tell = Callable[[float], None]
"""Tells how much of the step is done, from 0 to 1."""

WAIT_SECONDS = 30 * 86400.0
"""How long a step on several workers waits for the others that run."""


def run_loop(loop: Callable[..., Outcome], training: Job, layout: Layout) -> Outcome:
    """On the worker that this is or, where a training takes several, on those that Ray Train starts."""
    from cluster.alone import only_worker  # imports Ray

    if layout.workers == 1:
        with only_worker() as worker:
            return loop(worker, training)
    from cluster import trainer

    # Ray's queue of placement groups decides who is next.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(WAIT_SECONDS)
    outcome: Outcome = trainer.run(loop, training, replace(layout, wait_seconds=WAIT_SECONDS))
    return outcome


def score_here(
    tell: Tell, job: ScoringJob, tasks: Sequence[ScoringTask]
) -> Iterator[tuple[ScoringTask, ScoredBlock]]:
    """Each task with what this worker makes of it."""
    from cluster.alone import only_worker

    with only_worker() as worker:
        score = Scorer(worker, job)
        for i, task in enumerate(tasks):
            yield task, score(task)
            tell((i + 1) / len(tasks))


def device_name() -> str:
    """Of what this process computes on."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class ToldObservers:
    """Those of every training, and one that tells how far it is."""

    tell: Tell

    def __call__(self, context: RunContext) -> list[Observer]:
        return [*training_observers(context), _Progress(self.tell, context.job.plan.total_steps)]


@dataclass(frozen=True)
class _Progress:
    tell: Tell
    total_steps: int

    def handle(self, event: Event) -> None:
        if isinstance(event, StepsDone):
            self.tell(event.step / self.total_steps)


class Meter:
    """Time and energy from its making on."""

    def __init__(self, flop: float, workers: int) -> None:
        """`flop`: of the whole step."""
        self._flop, self._workers = flop, workers
        self._began, self._joules = time.monotonic(), _gpu_joules()

    def cost(self, device: str, images_per_s: float | None = None, share: float = 1.0) -> Cost:
        """What was spent until now on a `share` of the step."""
        joules, before = _gpu_joules(), self._joules
        energy = None if joules is None or before is None else joules - before
        seconds = time.monotonic() - self._began
        return Cost(seconds, self._workers, device, share * self._flop, images_per_s, energy)


@contextmanager
def logged(out: Folder, name: str) -> Iterator[None]:
    """What the block prints goes to logs/NAME.log: as it is printed on a disk, at its end on a store."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) if out.local is None else out.local / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}.log"
        with file.open("a", encoding="utf-8", buffering=1) as log:
            try:
                with redirect_stdout(log), redirect_stderr(log):
                    yield
            finally:
                if out.local is None:
                    out.write(f"logs/{name}.log", file.read_bytes())


def _gpu_joules() -> float | None:
    """Taken by this process's one GPU since its driver was loaded; None without one, or if it does not tell."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if len(devices) != 1 or not devices[0]:
        return None
    try:
        pynvml.nvmlInit()
        by_index = devices[0].isdecimal()
        find = pynvml.nvmlDeviceGetHandleByIndex if by_index else pynvml.nvmlDeviceGetHandleByUUID
        handle = find(int(devices[0]) if by_index else devices[0])
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
    except pynvml.NVMLError:
        return None
