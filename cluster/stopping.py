"""How a signal to the process that started the workers reaches them, and how long it waits for them to end.

    SIGTERM or Ctrl-C: an actor on the cluster tells every worker, and this process waits for them
    a second one, or the grace is over, or no worker is at work: this process ends at once
    Ray is about to take a worker's node away, or there is room for more workers: they are told to move

A handler here only notes the signal: Ray's own calls are not broken off, which they do not survive.
"""

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import ray
from ray._private.state import state as cluster_state
from ray.exceptions import RayError

from cluster.controllers import end_controllers
from cluster.placement import on_node, own_node
from cluster.stop_request import Asked, StopRequest

SIGNALS = (signal.SIGTERM, signal.SIGINT)
HEARING_SECONDS = 3.0
"""How long workers that live may take to hear."""
DRAIN_POLL_SECONDS = 2.0

Value = TypeVar("Value")


class StopSign:
    """The actor: keeps what the workers are asked, and what they say to it."""

    def __init__(self) -> None:
        self._asked, self._changed = Asked.GO_ON, asyncio.Event()
        self._nodes: dict[int, str] = {}
        self._at_work: bool | None = None

    async def attend(self, rank: int, node: str) -> None:
        """A worker says where it runs."""
        self._nodes[rank] = node

    async def nodes(self) -> dict[int, str]:
        """Where workers run, by rank."""
        return self._nodes

    async def ask(self, asked: Asked) -> None:
        """Ask all workers."""
        self._asked, self._at_work = max(self._asked, asked), None
        self._changed.set()
        self._changed = asyncio.Event()

    async def next(self, known: Asked) -> Asked:
        """What is asked, as soon as it is more than what is known."""
        while self._asked <= known:
            await self._changed.wait()
        return self._asked

    async def hear(self, at_work: bool) -> None:
        """Rank 0 says that it has heard, and whether its loop has begun."""
        self._at_work = at_work

    async def at_work(self) -> bool | None:
        """What rank 0 has said since the last request; None: nothing."""
        return self._at_work


def listen(sign: Any, rank: int, request: StopRequest) -> None:
    """On a worker: have `request` say what is asked, from a thread of its own."""
    sign.attend.remote(rank, own_node())
    threading.Thread(target=_listen, args=(sign, rank, request), name="stop-sign", daemon=True).start()


def _listen(sign: Any, rank: int, request: StopRequest) -> None:
    try:
        while request.asked < Asked.STOP:
            request.asked = ray.get(sign.next.remote(request.asked))
            if rank == 0:
                sign.hear.remote(request.is_answered)
    except RayError:  # whoever could ask is gone, and the workers with it
        return


class Interruption:
    """What a signal to this process does while workers run."""

    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._noted, self._ended = threading.Event(), threading.Event()
        self.number: int | None = None
        """Of the signal that came."""
        self.moved_because = ""
        """Why the workers were told to move."""

    @contextmanager
    def reaching_workers(self, is_time_for_more: Callable[[int], bool] = lambda _: False) -> Iterator[Any]:
        """The sign that the workers of the block are to `listen` to. `is_time_for_more`: asked, with how many
        of them have started, whether there is room for more."""
        self._noted, self._ended, self.moved_because = threading.Event(), threading.Event(), ""
        here = on_node(own_node())  # a worker's node may be the one that goes
        sign: Any = ray.remote(StopSign).options(num_cpus=0, scheduling_strategy=here).remote()
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        watching = sign, is_time_for_more
        thread = threading.Thread(target=self._watch, args=watching, name="interruption", daemon=True)
        thread.start()
        try:
            yield sign
        finally:
            self._ended.set()
            self._noted.set()
            thread.join(HEARING_SECONDS)
            for number, handler in before.items():
                signal.signal(number, handler)
            ray.kill(sign)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.number is not None:
            sys.exit(128 + number)
        self.number = number
        self._noted.set()

    def _watch(self, sign: Any, is_time_for_more: Callable[[int], bool]) -> None:
        moved: set[str] = set()
        try:
            while not self._noted.wait(DRAIN_POLL_SECONDS):
                nodes = ray.get(sign.nodes.remote())
                leaving = set(cluster_state.get_draining_nodes()) & set(nodes.values())
                if leaving - moved:
                    moved |= leaving
                    self._move(sign, "a node is about to go")
                elif not self.moved_because and is_time_for_more(len(nodes)):
                    self._move(sign, "there is room for more workers")
            if not self._ended.is_set():
                self._ask_to_stop(sign)
        except RayError:  # the cluster is gone, which the workers' end tells
            return

    def _move(self, sign: Any, why: str) -> None:
        self.moved_because = why
        ray.get(sign.ask.remote(Asked.MOVE))

    def _ask_to_stop(self, sign: Any) -> None:
        assert self.number is not None
        name, began = signal.Signals(self.number).name, time.monotonic()
        ray.get(sign.ask.remote(Asked.STOP))
        at_work = _first(lambda: ray.get(sign.at_work.remote()), HEARING_SECONDS, self._ended)
        if at_work:
            _say(
                f"{name}: saving this step, for at most {self._grace_seconds:g} s; a second {name} ends at once"
            )
            if self._ended.wait(began + self._grace_seconds - time.monotonic()):
                return
            _say(f"the workers did not end within --layout.grace-seconds {self._grace_seconds:g}")
        elif self._ended.is_set():
            return
        signal.pthread_kill(threading.main_thread().ident or 0, self.number)


def _first(ask: Callable[[], Value | None], seconds: float, ended: threading.Event) -> Value | None:
    """The first answer that is not None."""
    deadline = time.monotonic() + seconds
    while (answer := ask()) is None and time.monotonic() < deadline and not ended.wait(0.05):
        pass
    return answer


def beside_signals(work: Callable[[], Value]) -> Value:
    """The result of a run of Ray Train, from a thread of its own: this one runs the handlers of signals
    meanwhile, which may end it. Ray Train leaves Ctrl-C alone in such a thread.

    Where a handler ends this process the run's controller is ended first: a thread that still waits for it in
    Ray's own code crashes the interpreter (SIGSEGV) as that ends.
    """
    future: Future[Value] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  # whatever it is, who waits gets it
            future.set_exception(error)

    waiting = threading.Thread(target=run, name="workers", daemon=True)
    waiting.start()
    try:
        return future.result()
    except SystemExit:
        threading.Thread(target=end_controllers, name="end-controllers", daemon=True).start()
        waiting.join(HEARING_SECONDS)
        raise


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
