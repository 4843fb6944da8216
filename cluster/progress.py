"""What a worker is at, for whoever watches it: which step, which part of it, since when; seconds of each."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum


class Part(IntEnum):
    """What a worker can be at; of one step, in this order."""

    STARTING = 0
    OPENING = 1
    DATA = 2
    COMPUTE = 3
    EXCHANGE = 4
    VALIDATING = 5
    SAVING = 6
    ENDING = 7

    @property
    def described(self) -> str:
        """For people."""
        return _DESCRIBED[self]


_DESCRIBED = {
    Part.STARTING: "starting: process, libraries, process group",
    Part.OPENING: "opening: staging, verifying, reading a checkpoint",
    Part.DATA: "waiting for data",
    Part.COMPUTE: "forward and backward",
    Part.EXCHANGE: "exchange with the other workers",
    Part.VALIDATING: "validation",
    Part.SAVING: "saving a checkpoint",
    Part.ENDING: "ending",
}

OF_A_STEP = (Part.DATA, Part.COMPUTE, Part.EXCHANGE)
FORGET = 0.9
"""Of the longest step, what a step later still counts."""


@dataclass(frozen=True)
class Position:
    """Where a worker is."""

    step: int
    """Update that it is making, counted from 1; outside of updates the last one made."""
    part: Part
    seconds: float
    """Since it came there."""
    step_seconds: float | None
    """How long its steps have been of late; None before there were two."""


@dataclass(frozen=True)
class _At:
    step: int
    part: Part
    since_s: float


class Progress:
    """A worker's own notes: the thread that works writes them, others read them."""

    def __init__(self) -> None:
        self._at = _At(0, Part.OPENING, time.monotonic())  # replaced as a whole, as others read it
        self._spent_s = dict.fromkeys(OF_A_STEP, 0.0)
        self._steps, self._step_s = 0, 0.0
        self._longest_s: float | None = None

    def position(self) -> Position:
        """As it is now; any thread may ask."""
        at = self._at
        return Position(at.step, at.part, time.monotonic() - at.since_s, self._longest_s)

    def enter(self, part: Part, step: int | None = None) -> None:
        """This worker comes to a part, of the same step unless another is given."""
        at, now_s = self._at, time.monotonic()
        if at.part in self._spent_s:
            self._spent_s[at.part] += now_s - at.since_s
            self._step_s += now_s - at.since_s
        self._at = _At(at.step if step is None else step, part, now_s)

    def begin_step(self, step: int) -> None:
        """The next update begins, with its data. The first of a process is a slow one and does not count."""
        self.enter(Part.DATA, step)
        if self._steps > 1:
            self._longest_s = max(self._step_s, FORGET * (self._longest_s or 0.0))
        self._steps, self._step_s = self._steps + 1, 0.0

    @contextmanager
    def at(self, part: Part) -> Iterator[None]:
        """The block is this part; afterwards this worker is where it was."""
        before = self._at.part
        self.enter(part)
        yield
        self.enter(before)

    def spent(self) -> list[float]:
        """Seconds in each part `OF_A_STEP` since the last call."""
        self.enter(self._at.part)
        spent_s, self._spent_s = self._spent_s, dict.fromkeys(OF_A_STEP, 0.0)
        return list(spent_s.values())
