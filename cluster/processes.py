"""Processes of this machine, told apart by number and start time, and ended by us alone."""

import socket
from contextlib import suppress

import psutil


def end(process: psutil.Process, grace_seconds: float) -> None:
    """Ask a process to end, wait, then kill what is left of it and of all that it started."""
    family = [process, *process.children(recursive=True)]
    with suppress(psutil.NoSuchProcess):
        process.terminate()
    _, left = psutil.wait_procs(family, timeout=grace_seconds)
    for each in left:
        with suppress(psutil.NoSuchProcess):  # it may end between the wait and the kill
            each.kill()
    psutil.wait_procs(left, timeout=10)


def free_port(preferred: int = 0) -> int:
    """A TCP port of loopback that nobody listens on; the preferred one if it is free."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
