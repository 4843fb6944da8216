"""Whether the head of the cluster answers, asked by a process that works with it.

Without a head Ray ends such a process after a minute (or what KubeRay sets where a head can start anew), by a
line of its own; what is waited for until then never returns.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray

from cluster.processes import takes_connections

LOOK_SECONDS = 2.0
RAYS_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
HEAD_SECONDS = float(os.environ.get(RAYS_PATIENCE, "60")) / 2
"""Half of Ray's own patience: a head that is started anew, or a link that is cut for a while, is waited for."""

OnLost = Callable[[str], None]


@contextmanager
def watched_head(on_lost: OnLost | None, patience_s: float = HEAD_SECONDS) -> Iterator[None]:
    """During the block: if the head does not answer for so long, call `on_lost`, on a thread of its own, with
    what is to be said. It has to end the process: nothing of Ray's can be used or awaited any more."""
    if on_lost is None:
        yield
        return
    ended = threading.Event()
    address = ray.get_runtime_context().gcs_address
    arguments = (address, on_lost, patience_s, ended)
    threading.Thread(target=_watch, args=arguments, name="head-watch", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _watch(address: str, on_lost: OnLost, patience_s: float, ended: threading.Event) -> None:
    answered_s = time.monotonic()
    while not ended.wait(LOOK_SECONDS):
        if _answers(address):
            answered_s = time.monotonic()
        elif time.monotonic() - answered_s > patience_s:
            on_lost(f"the head of the Ray cluster, {address}, has not answered for {patience_s:.0f} s")
            return


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return takes_connections(host.strip("[]"), int(port), LOOK_SECONDS)
