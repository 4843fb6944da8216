"""Which worker does not go on: all work in step, so one that is behind or is not heard of keeps all waiting."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from cluster.processes import ProcessIdentity
from cluster.progress import Part, Position

NAMED_SECONDS = 5.0
"""Without progress within a step, or without a sign of life: with a second each for the beat and the look, and
some for its stack, a worker is named within ten."""
UNHEARD_SECONDS = 30.0
"""The same of a sign of life before the first steps and after the last, where libraries are loaded and the
interpreter is held for long."""
SLOW_STEPS, LOST_STEPS = 5, 10
"""Times a worker's longest step of late: where steps are long, so is the patience."""


@dataclass(frozen=True)
class Patience:
    """Seconds in one part after which a worker is named, and those it always has before it is killed."""

    named_s: float
    least_s: float


STEP, FIRST_STEP = Patience(NAMED_SECONDS, 0), Patience(120, 1800)
"""The first steps may compile the net."""
UNLIMITED = Patience(inf, inf)
OTHERS = {
    Part.STARTING: Patience(60, 120),
    Part.OPENING: UNLIMITED,  # staging takes hours
    Part.VALIDATING: Patience(60, 0),  # of one batch
    Part.SAVING: Patience(120, 900),  # a store that is away is waited for, for ten minutes
    Part.ENDING: UNLIMITED,
}


@dataclass(frozen=True)
class Beat:
    """A worker's sign of life."""

    rank: int | None
    """None before it has begun: it was never heard of itself."""
    process: ProcessIdentity
    node: str
    """Ray's id of its node."""
    address: str
    """IP address of that."""
    position: Position
    stack: str = ""
    """Of the thread that works, once it has been in one part for some seconds."""

    @property
    def named(self) -> str:
        """For people."""
        who = "a worker" if self.rank is None else f"rank {self.rank}"
        return f"{who} (PID {self.process.pid} on node {self.address})"


@dataclass(frozen=True)
class Heard:
    """A worker's last sign of life, and how old it is."""

    beat: Beat
    age_s: float

    @property
    def stuck_s(self) -> float:
        """Seconds that it has been where it is, as far as is known."""
        return self.beat.position.seconds + self.age_s

    @property
    def is_silent(self) -> bool:
        """Whether a sign of life is overdue."""
        position = self.beat.position
        under_way = position.step_seconds is not None and position.part != Part.ENDING
        return self.age_s > (NAMED_SECONDS if under_way else UNHEARD_SECONDS)


@dataclass(frozen=True)
class Named:
    """A worker does not go on."""

    heard: Heard
    others: int
    """Workers that are where it is."""


@dataclass(frozen=True)
class GoesOn:
    """One that was named does after all."""

    beat: Beat
    after_s: float


@dataclass(frozen=True)
class Lost:
    """The patience with one that was named is over."""

    heard: Heard


Finding = Named | GoesOn | Lost


class HangWatch:
    """Looks at what was heard of all workers, again and again."""

    def __init__(self, hang_seconds: float) -> None:
        """`hang_seconds`: after which a worker that does not go on is lost; 0: never."""
        self._hang_seconds = hang_seconds
        self._named: dict[tuple[str, int], Heard] = {}
        self._lost: set[tuple[str, int]] = set()

    def look(self, heard: Sequence[Heard]) -> list[Finding]:
        """What is new."""
        behind = {_key(each): each for each in _behind(heard)}
        present = {_key(each): each for each in heard}
        found: list[Finding] = []
        for key in set(self._named) - set(behind):
            before = self._named.pop(key)
            if key in present:  # else its process is gone, which Ray tells
                found.append(GoesOn(present[key].beat, before.stuck_s))
        for key, each in behind.items():
            if key not in self._named:
                found.append(Named(each, len(behind) - 1))
            self._named[key] = each
            if self._is_over(each) and key not in self._lost:
                self._lost.add(key)
                found.append(Lost(each))
        return found

    def _is_over(self, heard: Heard) -> bool:
        if not self._hang_seconds:
            return False
        if heard.is_silent:
            return heard.age_s > self._hang_seconds
        position = heard.beat.position
        steps_s = LOST_STEPS * (position.step_seconds or 0.0)
        return heard.stuck_s > max(self._hang_seconds, _patience(position).least_s, steps_s)


def _key(heard: Heard) -> tuple[str, int]:
    return heard.beat.node, heard.beat.process.pid


def _patience(position: Position) -> Patience:
    if position.part in OTHERS:
        return OTHERS[position.part]
    return FIRST_STEP if position.step_seconds is None else STEP


def _behind(heard: Sequence[Heard]) -> list[Heard]:
    """Those that are not heard of; else those furthest behind, if their patience is over."""
    if silent := [each for each in heard if each.is_silent]:
        return silent
    places = [(each.beat.position.step, each.beat.position.part) for each in heard]
    last = [each for each, place in zip(heard, places, strict=True) if place == min(places)]
    return last if all(_is_stuck(each) for each in last) else []


def _is_stuck(heard: Heard) -> bool:
    position = heard.beat.position
    steps_s = SLOW_STEPS * (position.step_seconds or 0.0)
    return heard.stuck_s > max(_patience(position).named_s, steps_s)
