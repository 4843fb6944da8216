"""What an hour of faults led to, and tables of it."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tests.faults.effective import KINDS, Spent, Strike
from tests.faults.lasting import Growth


@dataclass(frozen=True)
class Result:
    """Of one training under faults, and one without."""

    minutes: float
    steps: int
    strikes: dict[str, int]
    exit_codes: dict[str, int]
    """Of the commands."""
    same_weights: bool
    same_losses: bool
    points_missing: int
    points_doubled: int
    seconds: float
    """From the first command to the end of the last."""
    effective_time_ratio: float
    seconds_lost: dict[str, dict[str, float]]
    """Fault -> kind -> seconds."""
    seconds_of_each: dict[str, list[float]]
    """Fault -> seconds that each of its strikes cost."""
    steps_again: dict[str, int]
    seconds_a_step: float
    seconds_a_step_undisturbed: float
    held: dict[str, Growth]

    @property
    def is_as_promised(self) -> bool:
        """Whether nothing was lost."""
        return self.same_weights and self.same_losses and not self.points_missing + self.points_doubled

    @property
    def said(self) -> str:
        """In a sentence."""
        return (
            f"{self.steps:,} steps in {self.seconds:,.0f} s under {sum(self.strikes.values())} faults: weights "
            f"{_same(self.same_weights)}, losses {_same(self.same_losses)}; in MLflow "
            f"{self.points_missing} points missing, {self.points_doubled} doubled; "
            f"effective time ratio {self.effective_time_ratio:.3f}; "
            f"{self.seconds_a_step:.3f} s a step, {self.seconds_a_step_undisturbed:.3f} undisturbed; the "
            f"commands ended with {self.exit_codes}"
        )


def _same(is_same: bool) -> str:
    return "the same" if is_same else "NOT the same"


def by_fault(used: Spent) -> dict[str, dict[str, float]]:
    """Seconds lost, by fault and kind."""
    found: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for (strike, kind), seconds in used.lost.items():
        found[strike.fault][kind] += seconds
    return {fault: dict(kinds) for fault, kinds in found.items()}


def of_each(used: Spent, strikes: list[Strike]) -> dict[str, list[float]]:
    """Seconds that each strike cost, by fault."""
    found = defaultdict(list)
    for strike in strikes:
        found[strike.fault].append(used.lost_to(strike))
    return dict(found)


def steps_again(used: Spent) -> dict[str, int]:
    """Steps made again, by fault."""
    found: Counter[str] = Counter()
    for strike, steps in used.steps_again.items():
        found[strike.fault] += steps
    return dict(found)


def print_tables(result: Result) -> None:
    """Where the seconds went, and what has grown."""
    console = Console(width=140)
    console.print(result.said)
    kinds = [kind for kind in KINDS if any(kind in lost for lost in result.seconds_lost.values())]
    lost = [
        [
            fault,
            result.strikes.get(fault, ""),
            *_median_and_worst(result.seconds_of_each.get(fault)),
            *(f"{result.seconds_lost.get(fault, {}).get(kind, 0):.1f}" for kind in kinds),
            result.steps_again.get(fault, 0),
        ]
        for fault in sorted(result.strikes | result.seconds_lost)
    ]
    columns = "fault", "struck", "median", "worst", *kinds, "steps again"
    console.print(_table("Seconds lost: of each strike, and of all by kind", columns, lost))
    held = [
        [what, _short(each.first), _short(each.last), _short(each.most), "" if each.is_flat else "grown"]
        for what, each in result.held.items()
    ]
    quarters = "what", "first quarter", "last quarter", "most", ""
    console.print(_table("Held, medians", quarters, held))


def _median_and_worst(seconds: list[float] | None) -> tuple[str, str]:
    return (f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}") if seconds else ("", "")


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Table:
    table = Table(title=title)
    for i, each in enumerate(columns):
        table.add_column(each, justify="right" if i else "left")
    for row in rows:
        table.add_row(*map(str, row))
    return table


def _short(value: float) -> str:
    return f"{value / 1e6:,.1f} M" if value >= 1e6 else f"{value:,.1f}"
