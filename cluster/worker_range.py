"""`--layout.workers 2..4`, which is short for two flags: the most workers, and the fewest."""

import re
from collections.abc import Sequence

from cli.errors import UserError, require
from cluster.layout import Layout

FLAG = "--layout.workers"
FEWEST_FLAG = "--layout.fewest-workers"
RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")


def with_range(arguments: Sequence[str]) -> list[str]:
    """A command's arguments with a range of workers replaced by what it stands for. UserError for a text with
    two dots that is none."""
    found = list(arguments)
    for i, argument in enumerate(found):
        flag, mark, value = argument.partition("=")
        if flag != FLAG or (not mark and i + 1 == len(found)):
            continue
        if not mark:
            value = found[i + 1]
        if ".." in value:
            fewest, most = _read(value)
            found[i : i + (1 if mark else 2)] = [f"{FLAG}={most}", f"{FEWEST_FLAG}={fewest}"]
            if any(each.partition("=")[0] == FEWEST_FLAG for each in arguments):
                raise UserError(f"{FLAG} {value} says the fewest workers already: leave {FEWEST_FLAG} out")
            break
    return found


def refuse_range(layout: Layout) -> None:
    """UserError where a job of fixed workers is given a range of them."""
    require(not layout.is_range, FEWEST_FLAG, "left out: only a training's number of workers can change")


def _read(value: str) -> tuple[int, int]:
    match = RANGE.fullmatch(value)
    fewest, most = map(int, match.groups()) if match else (0, 0)
    require(
        1 <= fewest < most,
        f"{FLAG} {value}",
        "a number, or FEWEST..MOST: two numbers from 1, the smaller first, such as 2..4",
    )
    return fewest, most
