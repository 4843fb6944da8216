"""What a training tells its observers, on rank 0. The loop knows no observer: they are handed in.

Started, FirstBatch?, (StepsDone, Validated?)…, Finished
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.layout import Worker
from pipelines.loading.batch import Batch
from pipelines.shards.reader import Shards
from vgg.boxes.scores import BoxScores
from vgg.net.module import VGG
from vgg.net.precision import MixedPrecision
from vgg.training.job import Job
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
    """Mean loss of each: in nats, or see `BoxScores.loss`."""
    gradient_norm: float
    """L2 norm of the last one's gradient, without weight decay."""
    lr: float
    seconds: float
    data_wait_seconds: float


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


@dataclass(frozen=True)
class Finished:
    """The attempt is over: with a result, with the problem that stopped it, or saved midway as it was asked."""

    result: dict[str, Any] | None
    problem: str | None
    was_stopped: bool = False


Event = Started | FirstBatch | StepsDone | Validated | Finished


class Observer(Protocol):
    """Receives events on the training's own thread; only `Finished` may take time."""

    def handle(self, event: Event) -> None:
        """React to an event."""


ObserverFactory = Callable[[RunContext], Sequence[Observer]]
"""Makes the observers of an attempt, in the order in which they are told."""
