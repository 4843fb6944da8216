"""A training's settings in a YAML file: written by `--dry-run --save-config`, read by `--config`.

A file is read as the flags that it stands for, so that the command line's own parser checks every name and
value, and flags that are given beside it override it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cli.addresses import refuse_secret
from cli.errors import UserError
from pipelines.storage.atomic import atomic_file
from vgg.recipes.difference import flatten_saved

RECIPE = "recipe"
"""Key of the recipe's name."""


def with_config(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What the file of `--config FILE` stands for, a recipe's name and flags, and the arguments beside it with
    that name in front; without `--config`, nothing, and the arguments.

    UserError naming a file that is missing, is no YAML, names no recipe, or says something twice.
    """
    file, given = _taken_out(arguments, "--config")
    if file is None:
        return [], arguments
    name, flags = read_flags(file)
    if given and given[0] == name:
        given = given[1:]
    elif given and not given[0].startswith("-"):
        raise UserError(f"--config {file} is of recipe {name}, the command names {given[0]}: leave it out")
    return [name, *flags], [name, *given]


def read_flags(file: str) -> tuple[str, list[str]]:
    """The recipe's name of a file, and a flag for each other value. Errors as `with_config`."""
    try:
        text = Path(file).read_text(encoding="utf-8")
        found = yaml.safe_load(text)
        keys = Counter(_keys(yaml.compose(text, yaml.SafeLoader)))
    except OSError as error:
        raise UserError(f"--config {file} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # of a date that is none, of endless nesting
        raise UserError(f"--config {file} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or not isinstance(found.get(RECIPE), str):
        raise UserError(
            f"--config {file} has no line `{RECIPE}: NAME`: --dry-run --save-config writes such files"
        )
    if twice := [key for key, times in keys.items() if times > 1]:
        raise UserError(f"--config {file} says {twice[0]} twice, of which one would be lost: put them together")
    values = flatten_saved({str(key): value for key, value in found.items() if key != RECIPE})
    for key, value in values.items():
        if value is not None and not isinstance(value, bool | int | float | str):
            raise UserError(f"--config {file}: {key} is neither a number nor a text: {value}")
        if isinstance(value, str):
            refuse_secret(value, f"--{key}")
    return found[RECIPE], [_as_flag(key, value) for key, value in values.items()]


def _keys(node: yaml.Node | None, prefix: str = "") -> Iterator[str]:
    """The dotted name of every key below, as often as it is there."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}".replace("-", "_")
            yield name
            yield from _keys(value, f"{name}.")


def save_config(file: str, recipe_name: str, settings: Mapping[str, Any]) -> None:
    """Write a recipe's name and its settings, nested. UserError if the file cannot be written."""
    try:
        with atomic_file(Path(file), "w") as stream:
            yaml.safe_dump({RECIPE: recipe_name, **settings}, stream, sort_keys=False)
    except OSError as error:
        raise UserError(f"--save-config {file} cannot be written: {error.strerror or error}") from error


def _as_flag(key: str, value: bool | float | str | None) -> str:
    room, dot, name = key.replace("_", "-").rpartition(".")
    if isinstance(value, bool):
        return f"--{room}{dot}{'' if value else 'no-'}{name}"
    return f"--{room}{dot}{name}={value}"


def _taken_out(arguments: list[str], flag: str) -> tuple[str | None, list[str]]:
    """The value of a flag, and the arguments without it."""
    for i, argument in enumerate(arguments):
        if argument == flag and i + 1 < len(arguments):
            return arguments[i + 1], arguments[:i] + arguments[i + 2 :]
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2], arguments[:i] + arguments[i + 1 :]
    return None, arguments
