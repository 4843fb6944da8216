"""Signs of life: each worker sends where it is every second, from a thread of its own, to an actor.

The thread needs the interpreter, but nothing that the working thread waits for: a worker that is not heard of
is stopped, cut off, or holds the interpreter.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray

from cluster.hang import Beat, Heard
from cluster.placement import own_node
from cluster.processes import ProcessIdentity, start_time

if TYPE_CHECKING:
    from cluster.layout import Worker  # which imports torch: two seconds more for the actor to start

BEAT_SECONDS = 1.0
STACK_AFTER_SECONDS = 3.0
"""In one part; before, a worker sends no stack."""
FRAMES = 12
"""Of a stack, the innermost."""
LEAVING_SECONDS = 5.0


class Beats:
    """The actor: the last sign of life of each rank, by its own clock."""

    def __init__(self) -> None:
        self._last: dict[int | None, tuple[Beat, float]] = {}
        self._known: set[tuple[str, int]] = set()

    def begin(self, node: str, pid: int) -> None:
        """This process of a node is a worker that has begun."""
        self._known.add((node, pid))

    def known(self) -> set[tuple[str, int]]:
        """Node and PID of all that ever began."""
        return self._known

    def put(self, beat: Beat) -> None:
        """A worker lives. Another process of the same rank takes the place of one before."""
        self._last[beat.rank] = beat, time.monotonic()

    def forget(self, rank: int | None, pid: int) -> None:
        """This process of a rank is through, or gone."""
        if rank in self._last and self._last[rank][0].process.pid == pid:
            del self._last[rank]

    def heard(self) -> list[Heard]:
        """The last sign of life of each rank."""
        now_s = time.monotonic()
        return [Heard(beat, now_s - arrived_s) for beat, arrived_s in self._last.values()]


@contextmanager
def beating(beats: Any, worker: "Worker") -> Iterator[None]:
    """Send signs of life of this thread's work as long as the block runs."""
    ended = threading.Event()
    working = threading.get_ident()
    beats.begin.remote(own_node(), os.getpid())
    thread = threading.Thread(target=_beat, args=(beats, worker, working, ended), name="beats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        ray.wait([beats.forget.remote(worker.rank, os.getpid())], timeout=LEAVING_SECONDS)


def _beat(beats: Any, worker: "Worker", working: int, ended: threading.Event) -> None:
    process = ProcessIdentity(os.getpid(), start_time(os.getpid()))
    node, address = own_node(), ray.util.get_node_ip_address()
    while not ended.wait(BEAT_SECONDS):
        position = worker.progress.position()
        stack = stack_of(working) if position.seconds > STACK_AFTER_SECONDS else ""
        beats.put.remote(Beat(worker.rank, process, node, address, position, stack))


def stack_of(thread: int) -> str:
    """The innermost frames of a thread of this process; the innermost comes last."""
    frame = sys._current_frames().get(thread)
    return "" if frame is None else "".join(traceback.format_stack(frame, limit=FRAMES)).rstrip()
