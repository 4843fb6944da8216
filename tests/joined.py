"""A further node of a Ray cluster, once it is there."""

import time
from pathlib import Path

from cluster.nodes import Host, Node, start_worker_node

JOIN_SECONDS = 400.0


def joined(head: Node, host: Host) -> Node:
    """Start a node of one CPU on a host, and wait until it is in the cluster of `head`."""
    node, deadline = start_worker_node(head, 1, host), time.monotonic() + JOIN_SECONDS
    while "Ray runtime started" not in (said := (Path(node.folder) / "start.log").read_text()):
        assert time.monotonic() < deadline, said
        if not node.alive():  # on a busy machine: Ray gives a start half a minute
            node.stop()
            node = start_worker_node(head, 1, host)
        time.sleep(0.2)
    return node
