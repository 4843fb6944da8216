"""A recipe as flat settings, and its difference from another."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from vgg.recipes.schema import Recipe


def difference(recipe: Recipe, base: Recipe) -> dict[str, list[Any]]:
    """Overridden settings: dotted flag -> [value in `base`, value in `recipe`]."""
    pairs = zip(_leaves(asdict(base)), _leaves(asdict(recipe)), strict=True)
    return {name: [old, new] for (name, old), (_, new) in pairs if old != new}


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Dotted flag -> value, as tracked."""
    return dict(_leaves(asdict(recipe)))


def flatten_settings(recipe: dict[str, Any]) -> dict[str, Any]:
    """The same of a recipe as it is saved, `dataclasses.asdict`."""
    return dict(_leaves(recipe))


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
