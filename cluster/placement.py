"""On which node an actor is to run. Actors import this: it needs Ray alone."""

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def own_node() -> str:
    """Ray's id of this process's node."""
    return str(ray.get_runtime_context().get_node_id())


def on_node(node: str) -> NodeAffinitySchedulingStrategy:
    """There and nowhere else."""
    return NodeAffinitySchedulingStrategy(node, soft=False)
