"""How many workers a training on a range of them has, and when it is time for more.

    at its start, and when a worker is lost: as many as the nodes that answer have room for
    while fewer run than the range allows: once there is room for more, the workers save this step and end

Ray counts a node in for up to half a minute after its power is cut, and would wait for it.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ray._private.state import state as cluster_state

from cli.errors import UserError
from cluster.capacity import Resources, fitting, resources_per_worker, staying_nodes, wait_for_room
from cluster.layout import Layout
from cluster.processes import takes_connections

ANSWER_SECONDS = 1.0
"""How long a node may take to accept a connection."""
SETTLE_SECONDS = 2.0
"""How long room must stay as it is to count: what an ended group held is given back bit by bit."""
POLL_SECONDS = 0.25
NODE_LABEL = "ray.io/node-id"


@dataclass(frozen=True)
class Room:
    """Where workers can start now."""

    workers: int
    per_worker: Resources
    silent: tuple[str, ...] = ()
    """Nodes that the cluster still counts in and that do not answer: nothing is to be placed there."""
    possible: int = field(default=0, compare=False)
    """Workers for which there would be room if nothing else ran."""

    @property
    def label_selector(self) -> dict[str, str] | None:
        """What Ray is to know of it."""
        return {NODE_LABEL: f"!in({','.join(self.silent)})"} if self.silent else None


def find_room(layout: Layout) -> Room:
    """Room for the workers of a layout, as soon as there is.

    Of a range: for the most of them, or for as many as the nodes have room for at all, or have had for
    `SETTLE_SECONDS`. UserError where after `layout.wait_seconds` there is too little.
    """
    if not layout.is_range:
        return Room(layout.workers, wait_for_room(layout))
    assert layout.fewest_workers is not None
    deadline = time.monotonic() + layout.wait_seconds
    room = look(layout)
    since = time.monotonic()
    while room.workers < layout.workers:
        now = time.monotonic()
        is_settled = room.workers >= room.possible or now - since >= SETTLE_SECONDS
        if room.workers >= layout.fewest_workers and is_settled:
            break
        if now > deadline:
            raise UserError(_shortage(room, layout))
        time.sleep(POLL_SECONDS)
        before, room = room, look(layout)
        if room != before:
            since = time.monotonic()
    return room


def look(layout: Layout) -> Room:
    """How many workers, of those that the layout asks for, could start at this moment."""
    nodes = staying_nodes()
    silent = _silent(nodes)
    answering = {node["NodeID"]: node["Resources"] for node in nodes if node["NodeID"] not in silent}
    per_worker = resources_per_worker(layout, list(answering.values()))
    free = [
        resources
        for node, resources in cluster_state.available_resources_per_node().items()
        if node in answering
    ]
    possible = fitting(answering.values(), per_worker)
    return Room(min(layout.workers, fitting(free, per_worker)), per_worker, silent, possible)


class Growth:
    """Whether it is time for more workers than run."""

    def __init__(self, layout: Layout, running: int) -> None:
        self._layout, self._running = layout, running
        self._since: float | None = None

    def is_due(self, started: int) -> bool:
        """Whether there has been room for another worker for `SETTLE_SECONDS`; looked at again and again, once
        all workers have started: before, the room may be their own."""
        if not self._layout.is_range or started < self._running or self._running == self._layout.workers:
            return False
        if look(self._layout).workers == 0:
            self._since = None
            return False
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        return now - self._since >= SETTLE_SECONDS


def _shortage(room: Room, layout: Layout) -> str:
    requested = " and ".join(f"{amount:g} {name}" for name, amount in room.per_worker.items())
    silent = f", and {len(room.silent)} node(s) do not answer" if room.silent else ""
    return (
        f"--layout.workers {layout.asked_workers} asks for at least {layout.fewest_workers} worker(s) of "
        f"{requested} each; the cluster has room for {room.workers}{silent}. Ask for fewer workers, add nodes, "
        f"or wait longer than --layout.wait-seconds {layout.wait_seconds:g}."
    )


def _silent(nodes: list[dict[str, Any]]) -> tuple[str, ...]:
    """The nodes that do not take a connection, sorted."""
    with ThreadPoolExecutor(max(1, min(32, len(nodes)))) as threads:
        answers = list(threads.map(_answers, nodes))
    return tuple(sorted(node["NodeID"] for node, answer in zip(nodes, answers, strict=True) if not answer))


def _answers(node: dict[str, Any]) -> bool:
    return takes_connections(node["NodeManagerAddress"], node["NodeManagerPort"], ANSWER_SECONDS)
