"""Flags that stand for others: a depth for a configuration, an optimizer for its rate, a side for the scales.

They are carried out once, before anything reads the recipe: it is tracked as if the others had been given.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from cli.errors import UserError
from vgg.net.architecture import CONFIGURATIONS
from vgg.recipes.schema import Input, Model, Recipe

RATES = {"sgd": 0.01, "adam": 1e-4}
"""Learning rate of an optimizer that is named without one. An update of Adam is about as large as its rate,
whatever the gradient: at SGD's rate a plain VGG diverges or stays at ln K."""

DEPTHS = {11: "A", 13: "B", 16: "D", 19: "E"}

SCALES = ("min_scale", "max_scale", "test_scale")


def expanded(recipe: Recipe, base: Recipe, named: Collection[str]) -> Recipe:
    """The recipe with what `--model.depth`, `--optim.name` and `--model.side` stand for.

    `base`: the recipe before any flag; `named`: the flags that were given, which are left as they are.
    UserError where a depth and a configuration contradict each other.
    """
    optim, crop = recipe.optim, recipe.input
    if optim.name != base.optim.name and "--optim.lr" not in named:
        optim = replace(optim, lr=RATES[optim.name])
    if "--model.side" in named:
        given = [scale for scale in SCALES if f"--input.{scale.replace('_', '-')}" in named]
        crop = in_proportion(crop, base.model.side, recipe.model.side, given)
    model = _of_depth(recipe.model, "--model.configuration" in named)
    return replace(recipe, model=model, optim=optim, input=crop)


def in_proportion(crop: Input, old_side: int, side: int, kept: Collection[str] = ()) -> Input:
    """The scales, but for those `kept`, as large beside the new side of the crop as beside the old one."""
    moved = {name: round(getattr(crop, name) * side / old_side) for name in SCALES if name not in kept}
    return replace(crop, **moved)


def _of_depth(model: Model, configuration_given: bool) -> Model:
    if model.depth is None:
        return model
    layers = sum(map(len, CONFIGURATIONS[model.configuration])) + 3  # and three fully connected ones
    if layers == model.depth:
        return replace(model, depth=None)
    if configuration_given:
        raise UserError(
            f"--model.depth {model.depth} contradicts --model.configuration {model.configuration}, which has "
            f"{layers} layers: give one of them"
        )
    configuration: Any = DEPTHS[model.depth]  # a Literal in the recipe
    return replace(model, configuration=configuration, depth=None)
