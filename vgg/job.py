"""What a training is asked, what it goes through, and how it ends."""

from dataclasses import dataclass, field
from typing import Any

from cluster.strategy import Layout
from vgg.recipe import Recipe
from vgg.schedule import Plateau


@dataclass(frozen=True)
class Job:
    """A training, as its workers are told of it."""

    recipe: Recipe
    recipe_name: str
    data: str
    """Folder of the packed data set, the same on every node."""
    out: str
    """The run's folder: a path or URI that every node reaches."""
    seed: int
    layout: Layout
    uid: str
    """The same for every attempt at this training."""
    tracking_uri: str | None
    experiment: str


@dataclass
class Progress:
    """What a training has been through; kept in every checkpoint."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    """Mean loss of each step, in nats."""
    validations: list[dict[str, Any]] = field(default_factory=list)
    """Each with step, epoch, lr, loss, top1, top5 (fractions) and the images seen."""
    plateau: Plateau = field(default_factory=Plateau)
    resumed_from: list[int] = field(default_factory=list)
    """Step at which each further attempt took up."""

    @property
    def best(self) -> dict[str, Any] | None:
        """The first validation with the highest top-1 accuracy."""
        return max(self.validations, key=lambda v: v["top1"], default=None)


@dataclass(frozen=True)
class Outcome:
    """How a training ended: with a result, or with the problem that stopped it."""

    result: dict[str, Any] | None = None
    problem: str | None = None
    users_mistake: bool = False
