"""What workers tell the process that started them while they run: messages through a queue on the cluster."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.exceptions import RayError
from ray.util.queue import Empty, Queue

POLL_SECONDS = 0.5


@contextmanager
def listening(listener: Callable[[Any], None] | None) -> Iterator[Queue | None]:
    """A queue whose messages are handed to `listener`, on a thread of its own, until the block ends; None for
    nobody who listens."""
    if listener is None:
        yield None
        return
    queue, ended = Queue(actor_options={"num_cpus": 0}), threading.Event()
    thread = threading.Thread(target=_hand_on, args=(queue, listener, ended), name="listening", daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        ended.set()
        thread.join()
        queue.shutdown(force=True)


def teller(queue: Queue | None) -> Callable[[Any], None] | None:
    """Puts a message into the queue without waiting for the cluster."""
    if queue is None:
        return None
    actor: Any = queue.actor

    def tell(message: Any) -> None:
        actor.put_nowait.remote(message)

    return tell


def _hand_on(queue: Queue, listener: Callable[[Any], None], ended: threading.Event) -> None:
    try:
        while True:
            last = ended.is_set()  # read before: what was told until then is handed on
            try:
                listener(queue.get(timeout=POLL_SECONDS))
            except Empty:
                if last:
                    return
    except RayError:  # the cluster is gone, which the workers' end tells
        return
