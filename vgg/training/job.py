"""A training as its workers receive it, and how it ends."""

from dataclasses import dataclass
from typing import Any

from cluster.layout import Layout
from vgg.training.plan import TrainingPlan


@dataclass(frozen=True)
class Job:
    """A plan, and where and how it runs."""

    plan: TrainingPlan
    out: str
    """The run's folder: a path or URI that every node reaches."""
    layout: Layout
    uid: str
    """Of the run; the same for every attempt at it."""
    attempt: str
    """Of this command; workers that are restarted belong to the same."""
    tracking_uri: str | None
    experiment: str


@dataclass(frozen=True)
class Outcome:
    """How a training ended: with a result, with the problem that stopped it, or saved midway."""

    result: dict[str, Any] | None = None
    problem: str | None = None
    users_mistake: bool = False
    stopped_at: int | None = None
    """Step that was saved when the workers were asked to end before it was through."""
    moves: bool = False
    """It ended so because a node is about to go: on other nodes it goes on."""
