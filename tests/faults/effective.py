"""Where the time of a training went that was struck again and again: every second has a fault and a kind.

step a making of a step: its number and when it was done; a step that was lost is made again
"""

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

STARTED, NOTICED, RESTARTED, WAITED, AGAIN, ENDED = KINDS = (
    "first start",
    "noticed",
    "restarted",
    "waited",
    "steps made again",
    "end",
)
"""Of lost seconds. noticed: until a new worker started or the command ended; restarted: from there to the next
step; waited: without either."""
PAUSE_STEPS, LEAST_PAUSE_SECONDS = 5.0, 1.0
"""What is longer than so many typical steps, and than so many seconds, is a pause."""


@dataclass(frozen=True)
class Step:
    """One was made."""

    number: int
    at: float


@dataclass(frozen=True)
class Strike:
    """A fault."""

    fault: str
    at: float


NO_FAULT = Strike("no fault", 0.0)


@dataclass(frozen=True)
class Spent:
    """All seconds of a training, as effective ones and lost ones."""

    effective: float
    """In which steps were made that counted."""
    lost: dict[tuple[Strike, str], float]
    """By fault and kind."""
    steps_again: dict[Strike, int]
    """Steps made again, by the fault that undid them."""

    @property
    def ratio(self) -> float:
        """Effective time ratio, ETTR."""
        return self.effective / (self.effective + sum(self.lost.values()))

    def lost_to(self, strike: Strike) -> float:
        """Seconds of all kinds."""
        return sum(seconds for (each, _), seconds in self.lost.items() if each == strike)


def spent(
    steps: Sequence[Step], strikes: Sequence[Strike], changes: Sequence[float], began: float, ended: float
) -> Spent:
    """`changes`: when new workers were seen or a command ended; all in order of time."""
    typical = typical_seconds(steps)
    longest = max(LEAST_PAUSE_SECONDS, PAUSE_STEPS * typical)
    causes = _lost_to(steps, strikes)
    lost: defaultdict[tuple[Strike, str], float] = defaultdict(float)
    again: defaultdict[Strike, int] = defaultdict(int)
    effective, before, went_on_at = 0.0, Step(0, began), began
    for step, cause in zip(steps, causes, strict=True):
        making = seconds = step.at - before.at
        if before.at == began or step.number != before.number + 1 or seconds > longest:
            making = min(typical, seconds)
            caused = [each for each in strikes if went_on_at < each.at < step.at]
            went_on_at = step.at - making
            parts = _pause(before.at, went_on_at, caused, changes)
            if before.at == began and not caused:
                parts = iter([(NO_FAULT, STARTED, seconds - making)])
            for fault, kind, part in parts:
                lost[fault, kind] += part
        if cause is None:
            effective += making
        else:
            lost[cause, AGAIN] += making
            again[cause] += 1
        before = step
    lost[NO_FAULT, ENDED] += ended - before.at
    return Spent(effective, {key: seconds for key, seconds in lost.items() if seconds > 0}, dict(again))


def typical_seconds(steps: Sequence[Step]) -> float:
    """The median time of a step that came right after the one before."""
    return statistics.median(
        later.at - earlier.at for earlier, later in pairwise(steps) if later.number == earlier.number + 1
    )


def _lost_to(steps: Sequence[Step], strikes: Sequence[Strike]) -> list[Strike | None]:
    """Of each making the fault that undid it: the last one before the training was back at its number."""
    causes: list[Strike | None] = [None] * len(steps)
    for i, (earlier, later) in enumerate(pairwise(steps), start=1):
        if later.number > earlier.number:
            continue
        fault = _last(strikes, later.at)
        for j in range(i):
            if steps[j].number >= later.number and causes[j] is None:
                causes[j] = fault
    return causes


def _last(strikes: Sequence[Strike], at: float) -> Strike:
    return next((each for each in reversed(strikes) if each.at <= at), NO_FAULT)


def _pause(
    begin: float, end: float, strikes: Sequence[Strike], changes: Sequence[float]
) -> Iterator[tuple[Strike, str, float]]:
    """Fault, kind and seconds of what a pause was made of. `strikes`: all since the pause before; the last of
    those before this one caused it, else the first in it, from the pause's beginning."""
    earlier = [each for each in strikes if each.at <= begin]
    causes = earlier[-1:] + [each for each in strikes if begin < each.at < end]
    causes = causes or [NO_FAULT]
    edges = [begin, *(each.at for each in causes[1:]), end]
    for fault, (a, b) in zip(causes, pairwise(edges), strict=True):
        turn = next((change for change in changes if a < change <= b), None)
        if turn is None:
            yield fault, WAITED, b - a
        else:
            yield fault, NOTICED, turn - a
            yield fault, RESTARTED, b - turn
