"""A recipe as flat settings, and its difference from another."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from vgg.recipes.schema import Recipe

START_FROM = "model.start_from"
"""Where starting weights lie is no part of a recipe: which ones they are is, see `vgg.training.lineage`."""

ADDED_SETTINGS = {
    "model.boxes",
    "model.depth",
    "model.freeze",
    "model.take_architecture",
    "optim.body_lr_factor",
    "schedule.early_stop_on",
    "schedule.patience_steps",
    "train.bad_numbers",
    "train.cached_batch",
    "train.validation_steps",
}
"""Settings that recipes saved by earlier versions lack. These trained as the recipe of that name does now: at
ImageNet's size a patience of three passes is 15,014 updates, beyond any floor."""

EARLIER_VALUES = {"model.box_start": "random"}
"""Settings that recipes saved by earlier versions lack, and what these trained by, whatever the recipe of that
name says now."""


def difference(recipe: Recipe, base: Recipe) -> dict[str, list[Any]]:
    """Overridden settings: dotted flag -> [value in `base`, value in `recipe`]."""
    return saved_difference(asdict(recipe), asdict(base))


def saved_difference(recipe: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The same of recipes as they are saved, as nested dictionaries; a setting that one lacks is None there.

    One of `ADDED_SETTINGS` that `recipe` lacks is as in `base`, one of `EARLIER_VALUES` as it was then.
    """
    theirs = flatten_saved(base)
    ours = with_added_settings(flatten_saved(recipe), theirs)
    names = [name for name in {**theirs, **ours} if name != START_FROM]
    pairs = {name: [theirs.get(name), ours.get(name)] for name in names}
    return {name: [old, new] for name, (old, new) in pairs.items() if old != new}


def with_added_settings(saved: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings that an earlier version may have saved, completed from those of `base`."""
    added = {name: base[name] for name in ADDED_SETTINGS & base.keys()}
    return {**added, **EARLIER_VALUES, **saved}


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Dotted flag -> value, as tracked."""
    return flatten_saved(asdict(recipe))


def flatten_saved(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a recipe as it is saved, a nested dictionary."""
    return dict(_leaves(recipe))


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
