"""What a training is asked, what it goes through, and how it ends."""

from dataclasses import dataclass
from typing import Any

from cluster.layout import Layout
from vgg.recipes.schema import Recipe


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


@dataclass(frozen=True)
class Outcome:
    """How a training ended: with a result, or with the problem that stopped it."""

    result: dict[str, Any] | None = None
    problem: str | None = None
    users_mistake: bool = False
