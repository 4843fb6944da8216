"""What the faults of the suite led to, and a table of it."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from tests.faults.faults import FAULTS


@dataclass(frozen=True)
class Try:
    """What one fault led to."""

    fault: str
    at_step: int
    """The last one that MLflow had before the fault."""
    exit_codes: tuple[int | None, ...]
    """Of the command and its repetitions; None of one that had to be ended."""
    seconds_without_step: float
    """The longest pause between two steps from the fault on, until what was lost is back."""
    seconds_until_named: float | None
    """Until the log says which worker does not go on; None where it does not."""
    seconds_to_end: float
    """From the fault to the end of the command that it struck."""
    seconds_to_grow: float | None
    """From the return of what was lost to the first step with it; None where a training did not wait for it."""
    steps_lost: int
    """Steps that were made again: from the checkpoint that was resumed from to the pause."""
    points_missing: int
    """Steps without a point in MLflow."""
    same_weights: bool
    status: str
    said: str
    """The last line of the command that ended before its time."""


def longest_pause(moments: list[float], since: float, until: float = math.inf) -> tuple[float, float]:
    """Of the points, by time, the longest pause that ends after `since` and begins before `until`: when it
    began, its seconds."""
    pauses = [
        (later - earlier, earlier) for earlier, later in pairwise(moments) if later > since and earlier < until
    ]
    seconds, began_at = max(pauses, default=(0.0, since))
    return began_at, seconds


def table(tries: list[Try]) -> str:
    """A line of Markdown for each fault."""
    columns = "fault", "tried", "steps lost, most", *(title for title, _ in SECONDS), "same weights"
    lines = [_row(*columns), _row(*["---"] * len(columns))]
    for name, fault in FAULTS.items():
        if found := [each for each in tries if each.fault == name]:
            lost = max(each.steps_lost for each in found)
            seconds = [_spread([of(each) for each in found]) for _, of in SECONDS]
            same = sum(each.same_weights for each in found)
            lines.append(_row(fault.title, len(found), lost, *seconds, f"{same} of {len(found)}"))
    return "\n".join(lines)


SECONDS: tuple[tuple[str, Callable[[Try], float | None]], ...] = (
    ("seconds until named", lambda each: each.seconds_until_named),
    ("seconds to the next step", lambda each: each.seconds_without_step),
    ("seconds to grow", lambda each: each.seconds_to_grow),
    ("seconds to the end of a command that failed", lambda each: each.seconds_to_end if each.said else None),
)


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _spread(seconds: list[float | None]) -> str:
    known = [each for each in seconds if each is not None]
    return f"median {statistics.median(known):.1f}, worst {max(known):.1f}" if known else ""
