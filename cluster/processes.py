"""Processes of this machine, identified beyond the life of a PID, and free TCP ports."""

import socket
from contextlib import suppress
from dataclasses import dataclass

import psutil

START_TIME_TOLERANCE_SECONDS = 1.0  # the kernel counts start times in clock ticks since boot


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, for as long as it runs: the system reuses a PID, but not together with its start time."""

    pid: int
    started: float
    """Unix time of its start, in seconds."""

    def process(self) -> psutil.Process | None:
        """The process, or None once it has ended (a zombie has)."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < START_TIME_TOLERANCE_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.process() is not None

    def terminate(self, grace_seconds: float) -> None:
        """Send SIGTERM, then SIGKILL to what is left of it and its descendants after `grace_seconds`."""
        process = self.process()
        if process is None:
            return
        tree = [process, *process.children(recursive=True)]
        with suppress(psutil.NoSuchProcess):
            process.terminate()
        _, remaining = psutil.wait_procs(tree, timeout=grace_seconds)
        for each in remaining:
            with suppress(psutil.NoSuchProcess):  # it may end between the wait and the kill
                each.kill()
        psutil.wait_procs(remaining, timeout=10)


def start_time(pid: int) -> float:
    """Unix time in seconds at which the process with this PID started."""
    return psutil.Process(pid).create_time()


def takes_connections(host: str, port: int, seconds: float) -> bool:
    """Whether something at this TCP address accepts a connection within so many seconds."""
    try:
        socket.create_connection((host, port), seconds).close()
    except OSError:
        return False
    return True


def free_port(preferred: int = 0) -> int:
    """A loopback TCP port that nothing listens on: the preferred one, or any other where it is taken."""
    with socket.socket() as probe:
        # As servers do: else a port counts as taken for a minute after its server has ended (TIME_WAIT).
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if preferred and _binds(probe, preferred):
            return preferred
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def usual_port(usual: int, server: str) -> int:
    """The usual port of a server, or another where something listens on it already, which a line then says."""
    port = free_port(usual)
    if port != usual:
        print(f"port {usual} is in use: {server} listens on {port}", flush=True)
    return port


def _binds(probe: socket.socket, port: int) -> bool:
    try:
        probe.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True
