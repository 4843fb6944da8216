"""The weights that a training starts from, and those that these came from, told apart by digest."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cli.errors import UserError
from vgg.recipes.difference import saved_difference
from vgg.recipes.registry import RECIPES
from vgg.weights.checkpoint import Checkpoint
from vgg.weights.finished import is_finished
from vgg.weights.state import weights_sha256


@dataclass(frozen=True)
class Ancestor:
    """A trained net whose weights another training started from."""

    weights_sha256: str
    recipe: str
    difference: dict[str, list[Any]]
    """Settings that were overridden: flag -> [the recipe's value, its value]."""
    seed: int
    data: str
    """Digest of the data set that it was trained on."""
    finished: bool = True
    """Whether its training had come to its end by then; checkpoints of earlier versions do not say."""


def lineage_of(start_from: str, checkpoint: Checkpoint) -> tuple[Ancestor, ...]:
    """The net of `--model.start-from` and its own ancestors, the nearest first.

    UserError where the checkpoint does not say what it is of.
    """
    digest = weights_sha256(checkpoint.model)
    try:
        return (_ancestor(digest, checkpoint.metadata, start_from), *saved_lineage(checkpoint.metadata))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--model.start-from {start_from} is not a checkpoint of python -m vgg.train: its state.json is "
            f"malformed ({error!r})"
        ) from error


def saved_lineage(metadata: Mapping[str, Any]) -> tuple[Ancestor, ...]:
    """The ancestors that a checkpoint names; none in one of an earlier version."""
    return tuple(Ancestor(**each) for each in metadata.get("lineage", []))


def to_json(lineage: tuple[Ancestor, ...]) -> list[dict[str, Any]]:
    """For a checkpoint's metadata and result.json."""
    return [asdict(ancestor) for ancestor in lineage]


def _ancestor(digest: str, metadata: Mapping[str, Any], start_from: str) -> Ancestor:
    name = metadata["recipe_name"]
    difference = {}
    if name in RECIPES:
        difference = saved_difference(metadata["recipe"], asdict(RECIPES[name][1]))
    finished = is_finished(start_from, metadata)
    return Ancestor(digest, name, difference, metadata["seed"], metadata["data"], finished)
