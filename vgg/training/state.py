"""What changes from update to update, besides the tensors, and the timing of one attempt."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from cluster.collectives import sum_over_workers
from cluster.progress import Part, Progress
from vgg.training.schedule import PlateauState

LONGEST_SILENCE_SECONDS = 60.0
"""Between two progress lines of a training."""


@dataclass
class TrainerState:
    """The history of a training, kept in every checkpoint."""

    step: int = 0
    """Updates made."""
    losses: list[float] = field(default_factory=list)
    """Mean loss of each update, in nats; no number of those that were left out."""
    validations: list[dict[str, Any]] = field(default_factory=list)
    """See `add_validation`."""
    plateau: PlateauState = field(default_factory=PlateauState)
    resumed_from: list[int] = field(default_factory=list)
    """Step that each further attempt resumed from."""
    hits: int | None = 0
    """Training rows since the last validation whose best-scored class was the true one; None if not counted."""
    left_out: tuple[int, ...] = ()
    """Updates, counted from 1, that were not made as their numbers were none, or are not to be made."""

    def add_hits(self, hits: int) -> None:
        """Count right answers of the updates just made."""
        if self.hits is not None:
            self.hits += hits

    def add_validation(self, epoch: float, lr: float, batch: int, scores: Mapping[str, Any]) -> None:
        """Keep a validation: step, epoch, lr, `ValidationScores.summary`, and beside it the mean loss and the
        accuracy of the updates since the one before, each on its own batch of `batch` rows."""
        first = self.validations[-1]["step"] if self.validations else 0
        rows = len(self.losses[first:]) * batch
        losses = [loss for loss in self.losses[first:] if math.isfinite(loss)]
        self.validations.append(
            {
                "step": self.step,
                "epoch": epoch,
                "lr": lr,
                **scores,
                "train_loss": sum(losses) / len(losses) if losses else None,
                "train_top1": None if self.hits is None else self.hits / rows,
            }
        )
        self.hits = 0

    @property
    def validated_step(self) -> int:
        """Of the last validation."""
        return int(self.validations[-1]["step"]) if self.validations else 0

    @property
    def best(self) -> dict[str, Any] | None:
        """The first validation with the highest top-1 accuracy."""
        return max(self.validations, key=lambda v: v["top1"], default=None)


class StepTimer:
    """Seconds spent in updates, and of these in waiting for data, without validations and checkpoints."""

    def __init__(self, progress: Progress) -> None:
        """`progress`: this worker's, kept up to date."""
        self._progress = progress
        self.seconds, self.data_wait_seconds, self.steps = 0.0, 0.0, 0
        self.restart()

    def restart(self) -> None:
        """Begin a window of updates."""
        self._started, self._waited = time.perf_counter(), 0.0
        self._progress.spent()  # of no update

    @contextmanager
    def waiting(self, step: int) -> Iterator[None]:
        """Count the block as waiting for the data of this step."""
        started = time.perf_counter()
        self._progress.begin_step(step)
        yield
        self._progress.enter(Part.COMPUTE)
        self._waited += time.perf_counter() - started

    def stop(self, steps: int) -> tuple[float, float]:
        """End a window of so many updates; its seconds, and those of them spent waiting for data."""
        seconds, waited = time.perf_counter() - self._started, self._waited
        self.seconds += seconds
        self.data_wait_seconds += waited
        self.steps += steps
        return seconds, waited


def workers_mean(*values: float) -> list[float]:
    """Of each value over all workers, the same on each: what they decide by it they decide alike."""
    *sums, workers = sum_over_workers(torch.tensor([*values, 1.0], dtype=torch.float64)).tolist()
    return [total / workers for total in sums]


def next_told(step: int, log_steps: int, seconds_per_step: float) -> int:
    """The step at which a progress line is due after one at `step`: the next multiple of `log_steps` or, where
    that takes longer, a minute on."""
    in_a_minute = max(1, int(LONGEST_SILENCE_SECONDS / max(seconds_per_step, 1e-9)))
    return min((step // log_steps + 1) * log_steps, step + in_a_minute)
