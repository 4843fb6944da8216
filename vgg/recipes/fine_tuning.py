"""A recipe that starts from a trained net: what it takes from it, and which of its layers stay as they are."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from cli.errors import UserError
from vgg.net.architecture import Architecture, layers
from vgg.recipes.schema import Model, Recipe
from vgg.recipes.shorthand import in_proportion

LAST_LAYER = "fc8"

FREEZE_ALIASES = ("convolutions", "all-but-last")


def fitted(recipe: Recipe, start: Architecture) -> Recipe:
    """The recipe as it trains from a net of this architecture.

    `start_from` alone means every layer; `take_architecture` is carried out.
    """
    model = recipe.model
    if model.initialisation == "glorot":
        model = replace(model, initialisation="checkpoint")
    if not model.take_architecture:
        return replace(recipe, model=model)
    configuration: Any = start.configuration  # a Literal in the recipe
    taken = replace(model, configuration=configuration, side=start.side, width=start.width)
    return replace(recipe, model=taken, input=in_proportion(recipe.input, model.side, start.side))


def frozen_layers(model: Model, architecture: Architecture, fresh: Collection[str]) -> tuple[str, ...]:
    """Names of the layers that `--model.freeze` holds fixed, in order.

    UserError where it names a layer that the net lacks or that is `fresh`, or leaves none to train.
    """
    if model.freeze is None:
        return ()
    learning = [layer for layer in layers(architecture) if layer.weights]
    names = [layer.name for layer in learning]
    if model.freeze == "convolutions":
        return tuple(layer.name for layer in learning if layer.kind == "conv")
    if model.freeze == "all-but-last":
        return tuple(name for name in names if name != LAST_LAYER)
    wanted = {name.strip() for name in model.freeze.split(",")}
    if unknown := sorted(wanted - set(names)):
        known = ", ".join([*FREEZE_ALIASES, *names])
        raise UserError(f"--model.freeze {unknown[0]!r} is no layer of this net; known: {known}")
    if random := sorted(wanted & set(fresh)):
        raise UserError(f"--model.freeze {random[0]} would keep the random weights of a fresh layer")
    if wanted == set(names):
        raise UserError(f"--model.freeze {model.freeze} leaves no layer to train")
    return tuple(name for name in names if name in wanted)
