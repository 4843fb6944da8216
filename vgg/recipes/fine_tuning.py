"""A recipe that starts from a trained net: what it takes from it, and which of its layers stay as they are."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from cli.errors import UserError
from vgg.net.architecture import Architecture, layers
from vgg.recipes.schema import Model, Recipe
from vgg.recipes.shorthand import SCALES, in_proportion

LAST_LAYER = "fc8"

FREEZE_ALIASES = ("convolutions", "all-but-last")


def fitted(recipe: Recipe, start: Architecture, base: Recipe) -> Recipe:
    """The recipe as it trains from a net of this architecture.

    `start_from` alone means every layer; `take_architecture` is carried out. `base`: the recipe before any
    setting was changed. UserError where a changed one contradicts the architecture that is taken.
    """
    model = recipe.model
    if model.initialisation == "glorot":
        model = replace(model, initialisation="checkpoint")
    if not model.take_architecture:
        return replace(recipe, model=model)
    for name in ("configuration", "side", "width"):
        given, taken = getattr(model, name), getattr(start, name)
        if given not in (taken, getattr(base.model, name)):
            raise UserError(
                f"--model.{name} {given}: with --model.take-architecture it is that of the net that it starts "
                f"from, {taken}: leave it out, or pass --model.no-take-architecture"
            )
    configuration: Any = start.configuration  # a Literal in the recipe
    fitting = replace(model, configuration=configuration, side=start.side, width=start.width)
    changed = [scale for scale in SCALES if getattr(recipe.input, scale) != getattr(base.input, scale)]
    return replace(recipe, model=fitting, input=in_proportion(recipe.input, model.side, start.side, changed))


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
