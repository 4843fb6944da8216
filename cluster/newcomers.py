"""Workers that were started and have not been heard of yet: Ray waits for them without end.

While libraries are loaded and the process group is formed no sign of life is sent. A worker that is stopped
then, or waits for a file system, is known from Ray's table of actors alone.
"""

import time
from collections.abc import Set
from dataclasses import dataclass

from cluster.actors import actors_of_job

WORKER_CLASS = "RayTrainWorker"
"""Ray Train's actor."""
QUIET_SECONDS = 20.0
"""Which every start may take: until then nobody looks closer."""

Process = tuple[str, int]
"""Ray's id of its node, PID."""


@dataclass(frozen=True)
class Newcomer:
    """A worker's process, before its first sign of life."""

    node: str
    address: str
    """IP address of the node."""
    pid: int
    seconds: float
    """Since it was first seen."""


class Newcomers:
    """Those of this job, each with the time since when it has been there."""

    def __init__(self) -> None:
        self._since: dict[Process, float] = {}

    def look(self, known: Set[Process]) -> list[Newcomer]:
        """Those that have been there for a while, without the ones whose signs of life are known."""
        there = {each: address for each, address in _workers().items() if each not in known}
        now_s = time.monotonic()
        self._since = {each: self._since.get(each, now_s) for each in there}
        return [
            Newcomer(node, there[node, pid], pid, now_s - since_s)
            for (node, pid), since_s in self._since.items()
            if now_s - since_s > QUIET_SECONDS
        ]


def _workers() -> dict[Process, str]:
    """The workers of this job that have a process, with the address of its node."""
    return {
        (actor["Address"]["NodeID"], actor["Pid"]): actor["Address"]["IPAddress"]
        for actor in actors_of_job(WORKER_CLASS).values()
        if actor["Pid"]
    }
