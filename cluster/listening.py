"""What workers tell the process that started them while they run: messages through an actor on the cluster."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

POLL_SECONDS = 0.5


class Mailbox:
    """The actor: one call at a time, so what a worker sends keeps its order, which Ray's own queue does not."""

    def __init__(self) -> None:
        self._messages: list[Any] = []

    def put(self, message: Any) -> None:
        """Keep a message until it is taken."""
        self._messages.append(message)

    def take(self) -> list[Any]:
        """The messages since the last call."""
        taken, self._messages = self._messages, []
        return taken


class Teller:
    """Sends messages from a worker without waiting for the cluster."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._last: Any = None

    def __call__(self, message: Any) -> None:
        """Send a message."""
        self._last = self._mailbox.put.remote(message)

    def flush(self) -> None:
        """Return once all has arrived."""
        if self._last is not None:
            ray.wait([self._last])


@contextmanager
def listening(listener: Callable[[Any], None] | None) -> Iterator[Any]:
    """A mailbox whose messages are handed to `listener`, on a thread of its own, until the block ends; None for
    nobody who listens."""
    if listener is None:
        yield None
        return
    mailbox: Any = ray.remote(num_cpus=0)(Mailbox).remote()
    ended = threading.Event()
    thread = threading.Thread(target=_hand_on, args=(mailbox, listener, ended), name="listening", daemon=True)
    thread.start()
    try:
        yield mailbox
    finally:
        ended.set()
        thread.join()
        ray.kill(mailbox)


def _hand_on(mailbox: Any, listener: Callable[[Any], None], ended: threading.Event) -> None:
    try:
        last = False
        while not last:
            last = ended.wait(POLL_SECONDS)  # read first: what was told until then is taken below
            for message in ray.get(mailbox.take.remote()):
                listener(message)
    except RayError:  # the cluster is gone, which the workers' end tells
        return
