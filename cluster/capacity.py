"""Waits until the cluster has free resources for all workers of a job."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray._private.state import state as cluster_state
from tenacity import RetryCallState, Retrying, retry_if_result, stop_after_delay, wait_fixed

from cli.errors import UserError
from cluster.layout import Layout

POLL_SECONDS = 0.5
Resources = dict[str, float]  # amount by Ray's name of the resource: CPU, GPU


@dataclass(frozen=True)
class Capacity:
    """What a cluster has at one moment, against what the workers of a job need."""

    workers: int
    per_worker: Resources
    nodes: list[Resources]
    """Total of each node."""
    free: Resources
    """Unreserved, over all nodes."""

    def workers_that_fit(self) -> int:
        """How many workers the nodes could hold if nothing else ran: a worker never spans two nodes."""
        return fitting(self.nodes, self.per_worker)

    def suffices(self) -> bool:
        """Whether all workers can start now."""
        free = all(self.free.get(name, 0) >= amount * self.workers for name, amount in self.per_worker.items())
        return free and self.workers_that_fit() >= self.workers


def wait_for_room(layout: Layout) -> Resources:
    """The resources of one worker, as soon as the cluster has them free for all workers.

    UserError, after `layout.wait_seconds`, that says what was requested and what the cluster has.
    """
    poll = Retrying(
        retry=retry_if_result(lambda capacity: not capacity.suffices()),
        wait=wait_fixed(POLL_SECONDS),
        stop=stop_after_delay(layout.wait_seconds),
        retry_error_callback=_last_result,
    )
    capacity = poll(_capacity, layout)
    if not capacity.suffices():
        raise UserError(_shortage(capacity, layout))
    if layout.device == "auto" and "GPU" not in capacity.per_worker:
        print(
            f"--layout.device auto: on CPUs, as no node of the cluster has a GPU ({layout.workers} worker(s))",
            flush=True,
        )
    return capacity.per_worker


def resources_per_worker(layout: Layout, nodes: list[Resources]) -> Resources:
    """What one worker reserves on a cluster of these nodes.

    Where a node has a GPU, `auto` means GPUs for all workers: too few are waited for, as nodes may still join,
    and are then told, never replaced by CPUs.
    """
    on_gpus = layout.device == "gpu" or (layout.device == "auto" and any(node.get("GPU", 0) for node in nodes))
    if not on_gpus:
        return {"CPU": layout.cpus_per_worker or 1}
    shares = [node.get("CPU", 0) // node["GPU"] for node in nodes if node.get("GPU", 0)]
    return {"CPU": layout.cpus_per_worker or max(1, int(min(shares, default=1))), "GPU": 1}


def fitting(nodes: Iterable[Mapping[str, float]], per_worker: Resources) -> int:
    """How many workers fit on nodes that have so much: none spans two."""
    return sum(int(min(node.get(name, 0) // amount for name, amount in per_worker.items())) for node in nodes)


def staying_nodes() -> list[dict[str, Any]]:
    """What Ray says of each node that lives and is not about to go."""
    leaving = cluster_state.get_draining_nodes()
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]


def _capacity(layout: Layout) -> Capacity:
    staying = {node["NodeID"]: node["Resources"] for node in staying_nodes()}
    free: Resources = {}
    for node, resources in cluster_state.available_resources_per_node().items():
        if node in staying:
            free = {name: free.get(name, 0.0) + resources.get(name, 0.0) for name in {*free, *resources}}
    nodes = list(staying.values())
    return Capacity(layout.workers, resources_per_worker(layout, nodes), nodes, free)


def _last_result(state: RetryCallState) -> Capacity:
    assert state.outcome is not None, "called after an attempt"
    return state.outcome.result()


def _shortage(capacity: Capacity, layout: Layout) -> str:
    requested = " and ".join(f"{amount:g} {name}" for name, amount in capacity.per_worker.items())
    available = ", ".join(
        f"{sum(node.get(name, 0) for node in capacity.nodes):g} {name} ({capacity.free.get(name, 0):g} free)"
        for name in capacity.per_worker
    )
    on_cpus = " Or say --layout.device cpu." if layout.device == "auto" and "GPU" in capacity.per_worker else ""
    return (
        f"--layout.workers {layout.workers} asks for {layout.workers} workers of {requested} each; the "
        f"cluster's {len(capacity.nodes)} node(s) have {available}, room for {capacity.workers_that_fit()}. "
        "Ask for fewer workers, add nodes, or wait longer than --layout.wait-seconds "
        f"{layout.wait_seconds:g}.{on_cpus}"
    )
