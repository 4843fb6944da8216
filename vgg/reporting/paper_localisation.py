"""The paper's localisation results (tables 8 to 10) as data, and the row that a test of ours belongs to.

Errors are in percent: with the true class, which is a top-1 error, or of the five most probable classes.
"""

from collections import Counter
from dataclasses import dataclass

from vgg.reporting.localisation_facts import LocalisationFacts
from vgg.reporting.paper_results import Errors

Tests = tuple[tuple[str, str, tuple[int, ...]], ...]
"""(recipe, protocol, scales) of each net."""


@dataclass(frozen=True)
class BoxRow:
    """A row of a table; any of `keys` is our test of it."""

    label: str
    errors: Errors
    keys: tuple[Tests, ...]


@dataclass(frozen=True)
class BoxTable:
    """A table of the paper."""

    number: int
    title: str
    rows: tuple[BoxRow, ...]


def _centre(recipe: str) -> tuple[Tests, ...]:
    return (((recipe, "boxes-centre", (384,)),),)


_AT_256 = ("paper-d-boxes-256", "boxes-dense", (256,))
_AT_384 = ("paper-d-boxes-384", "boxes-dense", (384,))
_AT_TWO = ("paper-d-boxes-384", "boxes-dense", (352, 384))
_FUSED: tuple[Tests, ...] = ((_AT_256, _AT_TWO),)

TABLES = (
    BoxTable(
        8,
        "Localisation with the true class, D, centre crop, S = Q = 384 (top-1)",
        (
            BoxRow(
                "fully connected layers tuned, one box", (36.4, None), _centre("paper-d-boxes-384-single-fc")
            ),
            BoxRow(
                "fully connected layers tuned, a box a class", (34.3, None), _centre("paper-d-boxes-384-fc")
            ),
            BoxRow("every layer tuned, a box a class", (33.1, None), _centre("paper-d-boxes-384")),
        ),
    ),
    BoxTable(
        9,
        "Localisation, D, dense, boxes merged (top-5)",
        (
            BoxRow("S = 256, Q = 256 (test set: –)", (None, 29.5), ((_AT_256,),)),
            BoxRow("S = 384, Q = 384 (test set: 26.7)", (None, 28.2), ((_AT_384,),)),
            BoxRow("S = 384, Q = 352, 384 (test set: –)", (None, 27.5), ((_AT_TWO,),)),
            BoxRow("both: S = 256, Q = 256; S = 384, Q = 352, 384 (test set: 25.3)", (None, 26.9), _FUSED),
        ),
    ),
    BoxTable(
        10,
        "Localisation: the paper's best (top-5)",
        (BoxRow("VGG, two nets (test set: 25.3)", (None, 26.9), _FUSED),),
    ),
)


def box_row(facts: LocalisationFacts | None) -> BoxRow | None:
    """Of the rows that the test belongs to, the first; None if it is of no row, or not made as the paper's."""
    if facts is None or facts.differences:
        return None
    return next((row for table in TABLES for row in table.rows if matches(row, facts)), None)


def matches(row: BoxRow, facts: LocalisationFacts) -> bool:
    """Whether the test is of the row's nets at its scales, whatever its data."""
    return any(facts.tested == Counter(key) for key in row.keys)
