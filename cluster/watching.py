"""Watches the workers from the process that started them: names one that does not go on, and ends it.

Ray Train starts the workers anew once one has ended, from the newest checkpoint.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import ActorUnschedulableError, GetTimeoutError, RayActorError, RayError

from cluster import attendant
from cluster.beats import Beats
from cluster.hang import Beat, Finding, GoesOn, HangWatch, Heard, Lost, Named
from cluster.newcomers import Newcomers, Process
from cluster.placement import on_node, own_node
from cluster.processes import ProcessIdentity
from cluster.progress import Part, Position

LOOK_SECONDS = 1.0
ANSWER_SECONDS = attendant.STACK_SECONDS + 1.0
NO_ANSWER = "its node does not answer"

OnHang = Callable[[str], None]


@contextmanager
def watching(workers: int, hang_seconds: float, on_hang: OnHang | None = None) -> Iterator[Any]:
    """The actor that so many workers send signs of life to; until the block ends they are looked at. `on_hang`
    is called with what is said of a worker that does not go on. `hang_seconds`: see `Layout`."""
    beats: Any = ray.remote(Beats).options(num_cpus=0, scheduling_strategy=on_node(own_node())).remote()
    watch = _Watch(beats, workers, hang_seconds, on_hang)
    thread = threading.Thread(target=watch.run, name="hang-watch", daemon=True)
    thread.start()
    try:
        yield beats
    finally:
        watch.ended.set()
        thread.join(2 * ANSWER_SECONDS)
        for actor in (beats, *watch.attendants.values()):
            ray.kill(actor)


class _Watch:
    def __init__(self, beats: Any, workers: int, hang_seconds: float, on_hang: OnHang | None) -> None:
        self._beats, self._workers = beats, workers
        self._hang_seconds, self._on_hang = hang_seconds, on_hang
        self._newcomers = Newcomers()
        self._identities: dict[Process, ProcessIdentity] = {}
        self._watch = HangWatch(hang_seconds)
        self._own_node = own_node()
        self.ended = threading.Event()
        self.attendants: dict[str, Any] = {}
        """By node; this process attends to its own itself."""

    def run(self) -> None:
        """Look until the end, or until the cluster is gone, which others tell."""
        try:
            while not self.ended.wait(LOOK_SECONDS):
                heard = ray.get(self._beats.heard.remote())
                self._attend({each.beat.node for each in heard})
                if len(heard) < self._workers:  # the others start, or are through
                    heard += self._starting()
                for finding in self._watch.look(heard):
                    self._tell(finding)
        except RayError:
            return

    def _starting(self) -> list[Heard]:
        """Workers that have not begun."""
        found = self._newcomers.look(ray.get(self._beats.known.remote()))
        self._attend({each.node for each in found})
        starting = []
        for each in found:
            if (identity := self._identify(each.node, each.pid)) is not None:
                at = Position(0, Part.STARTING, each.seconds, None)
                starting.append(Heard(Beat(None, identity, each.node, each.address, at), 0.0))
        return starting

    def _identify(self, node: str, pid: int) -> ProcessIdentity | None:
        if (node, pid) not in self._identities:
            found = self._ask(node, "identify", pid)
            if isinstance(found, ProcessIdentity):
                self._identities[node, pid] = found
        return self._identities.get((node, pid))

    def _attend(self, nodes: set[str]) -> None:
        """Have somebody on each node before anything happens there."""
        for node in nodes - {self._own_node} - set(self.attendants):
            actor: Any = ray.remote(attendant.Attendant)
            self.attendants[node] = actor.options(num_cpus=0, scheduling_strategy=on_node(node)).remote()

    def _tell(self, finding: Finding) -> None:
        match finding:
            case Named(heard):
                self._name(finding, heard)
            case GoesOn(beat, after_s):
                _say(f"{beat.named} goes on, after {after_s:.0f} s")
            case Lost(heard):
                self._end(heard.beat)

    def _name(self, finding: Named, heard: Heard) -> None:
        found = self._ask(heard.beat.node, "inspect", heard.beat.process)
        if found is None:
            self._forget(heard.beat)
            return
        state, stack = (NO_ANSWER, "") if found == NO_ANSWER else found
        said = description(finding, state, stack)
        _say(said)
        if self._on_hang is not None:
            self._on_hang(said)

    def _end(self, beat: Beat) -> None:
        if self._ask(beat.node, "kill", beat.process) is True:
            _say(
                f"{beat.named} is killed after --layout.hang-seconds {self._hang_seconds:g}: the workers start "
                "again from the newest checkpoint"
            )
            self._forget(beat)

    def _forget(self, beat: Beat) -> None:
        self._beats.forget.remote(beat.rank, beat.process.pid)

    def _ask(self, node: str, what: str, about: ProcessIdentity | int) -> Any:
        """What somebody on this node finds or does; None where the node is gone, which Ray tells."""
        if node == self._own_node:
            return getattr(attendant, what)(about)
        if node not in self.attendants:
            return None
        try:
            asked = getattr(self.attendants[node], what).remote(about)
            return ray.get(asked, timeout=ANSWER_SECONDS)
        except GetTimeoutError:
            return NO_ANSWER
        except (RayActorError, ActorUnschedulableError):
            del self.attendants[node]
            return None


def description(finding: Named, state: str, stack: str) -> str:
    """What is said of a worker that does not go on. `state`, `stack`: from beside it."""
    heard, beat = finding.heard, finding.heard.beat
    at = beat.position.part.described
    if beat.position.part != Part.STARTING:
        at = f"step {beat.position.step:,}, {at}"
    if heard.is_silent:  # it may have gone on since, up to the next sign of life
        at = f"nothing heard of it for {heard.age_s:.0f} s, then at {at}"
    else:
        at = f"{at}, for {heard.stuck_s:.0f} s"
    said = [f"{beat.named} does not go on: {at}"]
    if finding.others and not heard.is_silent:
        said.append(f"as {finding.others} other(s): none is behind the others")
    if state:
        said.append(state)
    if not heard.is_silent and beat.stack:
        stack = beat.stack
    return "; ".join(said) + (f"; its stack:\n{stack}" if stack else "")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
