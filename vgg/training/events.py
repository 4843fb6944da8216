"""What a training tells its observers, on rank 0. The loop knows no observer: they are handed in.

Started, FirstBatch?, (LeftOut…, StepsDone, Validated?)…, Finished
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from cli.errors import Failure, UserError
from cluster.layout import Worker
from pipelines.loading.batch import Batch
from pipelines.shards.reader import Shards
from vgg.boxes.scores import BoxScores
from vgg.net.module import VGG
from vgg.net.precision import MixedPrecision
from vgg.training.job import Job
from vgg.training.rank_times import RankTime
from vgg.training.validation import ValidationScores


@dataclass(frozen=True)
class RunContext:
    """What holds during one attempt at a training."""

    job: Job
    worker: Worker
    net: VGG
    """As it is being trained: observers only read it."""
    precision: MixedPrecision
    val_set: Shards
    resumed_from: int | None
    """Step of the checkpoint that this attempt resumed from."""
    skipped_checkpoints: tuple[str, ...]
    """Why each newer checkpoint was not used."""


@dataclass(frozen=True)
class Started:
    """The net is in place; no update has been made by this attempt."""


@dataclass(frozen=True)
class FirstBatch:
    """The batch of the first update of all."""

    batch: Batch


@dataclass(frozen=True)
class StepsDone:
    """Some updates were made since the last such event."""

    step: int
    """Updates made in all."""
    losses: tuple[float, ...]
    """Mean loss of each: in nats, or see `BoxScores.loss`; no number of those that were left out."""
    gradient_norm: float
    """L2 norm of the last one's gradient, without weight decay."""
    lr: float
    seconds: float
    data_wait_seconds: float
    times: tuple[RankTime, ...] = ()
    """Of each worker's updates, by rank."""


@dataclass(frozen=True)
class LeftOut:
    """An update's numbers were none: it is left out, or the training goes back and leaves it out then."""

    step: int
    said: str
    """For people."""


@dataclass(frozen=True)
class Validated:
    """The validation set was scored."""

    step: int
    scores: ValidationScores | BoxScores
    drops: int
    """Of the learning rate so far, this validation counted."""
    losses: tuple[float, ...]
    """Of all updates so far."""
    validations: tuple[dict[str, Any], ...]
    """All so far; see `TrainerState.validations`."""

    @property
    def best(self) -> dict[str, Any]:
        """The first of them with the highest top-1 accuracy."""
        return max(self.validations, key=lambda v: v["top1"])

    @property
    def is_best(self) -> bool:
        """Whether every one before had a lower accuracy."""
        return self.best is self.validations[-1]


CUT_OFF = "the training was cut off by an error"
"""The problem of an attempt that an error ended, after which the workers start again."""


@dataclass(frozen=True)
class Finished:
    """The attempt is over: with a result, with the problem that stopped it, or saved midway as it was asked."""

    result: dict[str, Any] | None
    problem: str | None
    was_stopped: bool = False

    @property
    def is_last(self) -> bool:
        """Whether nothing follows by itself, neither a restart of the workers nor the end of a grace."""
        return not self.was_stopped and self.problem != CUT_OFF


Event = Started | FirstBatch | StepsDone | LeftOut | Validated | Finished


class Observer(Protocol):
    """Receives events on the training's own thread; only `Finished` may take time."""

    def handle(self, event: Event) -> None:
        """React to an event."""


ObserverFactory = Callable[[RunContext], Sequence[Observer]]
"""Makes the observers of an attempt, in the order in which they are told."""


def tell_end(observers: Sequence[Observer], end: Finished) -> str | None:
    """Tell all observers, also those after one that fails, as its store may be away: they hear of that. What
    went wrong first, here or before."""
    for observer in observers:
        try:
            observer.handle(end)
        except (Failure, UserError) as error:
            end = replace(end, result=None, problem=end.problem or str(error))
    return end.problem
