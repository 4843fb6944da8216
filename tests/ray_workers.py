"""The workers of trainings on a real cluster, found among its processes."""

from contextlib import suppress

import psutil

from cluster.leave import WORKER
from cluster.local import LocalCluster


def workers_of(cluster: LocalCluster) -> list[psutil.Process]:
    """The processes of a training's workers on a cluster."""
    head = cluster.head.process()
    assert head is not None
    found = []
    for process in head.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith(WORKER):
                found.append(process)
    return found
