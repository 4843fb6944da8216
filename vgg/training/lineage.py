"""The weights that a training starts from, and those that these came from, told apart by digest."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from cli.errors import UserError
from vgg.recipes.difference import saved_difference
from vgg.recipes.registry import RECIPES
from vgg.recipes.schema import Model
from vgg.weights.trained_net import TrainedNet


class NetOpener(Protocol):
    """Opens what `--model.start-from` names."""

    def __call__(self, reference: str, flag: str = "", *, underway: bool = False) -> TrainedNet:
        """As `vgg.weights.open_run.open_run` does. UserError where there is no net, or it is damaged."""


@dataclass(frozen=True)
class Ancestor:
    """A trained net whose weights another training started from."""

    weights_sha256: str
    recipe: str
    difference: dict[str, list[Any]]
    """Settings that were overridden: flag -> [the recipe's value, its value]."""
    seed: int | None
    """None of a published net."""
    data: str
    """Digest of the data set that it was trained on; empty if unknown."""
    finished: bool = True
    """Whether its training had come to its end by then; checkpoints of earlier versions do not say."""


def lineage_of(start_from: str | None, net: TrainedNet) -> tuple[Ancestor, ...]:
    """The net of `--model.start-from` and its own ancestors, the nearest first.

    UserError where its metadata do not say what it is of.
    """
    if net.metadata is None:
        return (Ancestor(net.weights_sha256, net.recipe, {}, net.seed, net.trained_on),)
    try:
        return (_ancestor(net.weights_sha256, net.metadata, net.finished), *saved_lineage(net.metadata))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--model.start-from {start_from} is no net of python -m vgg.train: its metadata are malformed "
            f"({error!r})"
        ) from error


def check_pixel_scale(model: Model, lineage: tuple[Ancestor, ...], frozen: tuple[str, ...]) -> None:
    """UserError where the first convolution of one of torchvision's nets would be trained.

    It has taken in the division of the pixels by 255 and by their standard deviation, so that its weights are
    58 times smaller than their gradients are made for: an update would be 3,400 times too large.
    """
    published = next((each.recipe for each in lineage if each.recipe.startswith("torchvision-")), None)
    if published is not None and "conv1_1" not in frozen:
        raise UserError(
            f"--model.start-from {model.start_from} goes back to {published}, whose first convolution holds "
            "torchvision's scale of the pixels and cannot be trained: pass --model.freeze conv1_1, or "
            "convolutions"
        )


def saved_lineage(metadata: Mapping[str, Any]) -> tuple[Ancestor, ...]:
    """The ancestors that a checkpoint names; none in one of an earlier version."""
    return tuple(Ancestor(**each) for each in metadata.get("lineage", []))


def to_json(lineage: tuple[Ancestor, ...]) -> list[dict[str, Any]]:
    """For a checkpoint's metadata and result.json."""
    return [asdict(ancestor) for ancestor in lineage]


def _ancestor(digest: str, metadata: Mapping[str, Any], finished: bool) -> Ancestor:
    name = metadata["recipe_name"]
    difference = {}
    if name in RECIPES:
        difference = saved_difference(metadata["recipe"], asdict(RECIPES[name][1]))
    return Ancestor(digest, name, difference, metadata["seed"], metadata["data"], finished)
