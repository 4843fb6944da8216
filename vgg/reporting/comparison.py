"""Tables of our errors beside published ones: what stands in them, whatever they are rendered as."""

from collections.abc import Sequence
from dataclasses import dataclass

from vgg.reporting.paper_results import Errors

TOP1, TOP5 = 0, 1
"""Places in a pair of errors."""


@dataclass(frozen=True)
class ComparisonRow:
    """A row: published errors and ours, in percent."""

    label: str
    reference: Errors
    ours: Errors | None
    note: str = ""
    interval: tuple[float, float] | None = None
    """95 % interval of our top-1 error."""

    @property
    def difference(self) -> Errors | None:
        """Ours less the published errors; None for each that is missing."""
        if self.ours is None:
            return None
        top1, top5 = (
            None if ours is None or reference is None else ours - reference
            for ours, reference in zip(self.ours, self.reference, strict=True)
        )
        return top1, top5


@dataclass(frozen=True)
class ComparisonTable:
    """A table of our errors beside those of a reference."""

    title: str
    reference_name: str
    rows: tuple[ComparisonRow, ...]
    higher_is_better: bool = False
    """Of what is no error; its title says what it is."""
    remark: str = ""
    """What holds of every row."""

    @property
    def run(self) -> list[ComparisonRow]:
        """The rows with a result of ours, the best first."""
        sign = -1 if self.higher_is_better else 1
        return sorted(
            (row for row in self.rows if row.ours), key=lambda row: sign * ((row.ours or (None,))[0] or 0.0)
        )

    @property
    def not_run(self) -> list[ComparisonRow]:
        """The rows without."""
        return [row for row in self.rows if not row.ours]

    @property
    def has_reference(self) -> bool:
        """Whether anything published stands in it."""
        return any(row.reference != (None, None) for row in self.rows)

    @property
    def shown(self) -> tuple[int, ...]:
        """Which of top-1 and top-5 any row has."""
        pairs = [pair for row in self.rows for pair in (row.reference, row.ours) if pair is not None]
        return tuple(place for place in (TOP1, TOP5) if any(pair[place] is not None for pair in pairs))

    @property
    def ours_name(self) -> str:
        """Heading of our column; without a published one beside it, it says what the numbers are."""
        if self.has_reference or self.higher_is_better:
            return "ours"
        return f"{names_of(self.shown)} error, %"


def names_of(places: Sequence[int]) -> str:
    """What the numbers of a cell are."""
    return " / ".join(("top-1", "top-5")[place] for place in places)


def is_compared(tables: Sequence[ComparisonTable]) -> bool:
    """Whether any test of ours stands in a table with something published."""
    return any(table.has_reference and table.run for table in tables)


def legend(tables: Sequence[ComparisonTable]) -> str:
    """A sentence on the numbers of the tables that have some of ours."""
    places = sorted({place for table in tables if table.run for place in table.shown}) or [TOP1]
    text = f"{names_of(places).capitalize()} error in percent where the title names nothing else"
    return f"{text}; a dash where nothing was run or published." if is_compared(tables) else f"{text}."


def format_errors(errors: Errors | None, places: Sequence[int] = (TOP1, TOP5), *, sign: bool = False) -> str:
    """Top-1 / top-5 with one decimal, or only those of `places`; a dash for what is missing."""
    found = [errors[place] for place in places] if errors is not None else []
    if all(error is None for error in found):
        return "–"
    form = "{:+.1f}" if sign else "{:.1f}"
    return " / ".join("–" if error is None else form.format(error) for error in found)
