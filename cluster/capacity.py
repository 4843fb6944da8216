"""Waits until a cluster has room for the workers of a job."""

import time

import ray
import ray.train
import ray.train.torch

from cluster.layout import Layout


def wait_for_room(layout: Layout) -> dict[str, float]:
    """Resources of one worker, once the cluster has them free for all.

    ValueError, after `layout.wait_seconds`, that says what was asked and what is there.
    """
    deadline = time.monotonic() + layout.wait_seconds
    while True:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        resources = _resources_of_a_worker(layout, nodes)
        fitting = sum(
            int(min(node.get(name, 0) // amount for name, amount in resources.items())) for node in nodes
        )
        free = ray.available_resources()
        enough_free = all(free.get(name, 0) >= amount * layout.workers for name, amount in resources.items())
        if fitting >= layout.workers and enough_free:
            return resources
        if time.monotonic() >= deadline:
            break
        time.sleep(0.5)
    asked = " and ".join(f"{amount:g} {name}" for name, amount in resources.items())
    there = ", ".join(
        f"{sum(node.get(name, 0) for node in nodes):g} {name} ({free.get(name, 0):g} free)"
        for name in resources
    )
    raise ValueError(
        f"--layout.workers {layout.workers} asks for {layout.workers} workers of {asked} each; the cluster's "
        f"{len(nodes)} node(s) have {there}, room for {fitting}. Ask for fewer workers, add nodes, or wait "
        f"longer than --layout.wait-seconds {layout.wait_seconds:g}."
    )


def _resources_of_a_worker(layout: Layout, nodes: list[dict[str, float]]) -> dict[str, float]:
    gpus = sum(node.get("GPU", 0) for node in nodes)
    if layout.device == "gpu" or (layout.device == "auto" and gpus >= layout.workers):
        return {"CPU": layout.cpus_per_worker, "GPU": 1}
    return {"CPU": layout.cpus_per_worker}
