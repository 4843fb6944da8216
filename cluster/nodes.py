"""Ray nodes as processes of this machine: started, waited for, stopped."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.processes import end, free_port

READY_SECONDS = 90.0


OBJECT_STORE_BYTES = 200 * 2**20  # trainings pass nothing large through it


ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Otherwise a token that an earlier `ray.init()` left in the home folder would shut out every client that
    # has not asked for it by this variable.
    "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled"),
}


@dataclass(frozen=True)
class Node:
    """A running Ray node: the process that `ray start --block` is, and where it answers."""

    pid: int
    started: float
    """When the process began, which tells it from a later one of the same number."""
    address: str
    """Of the cluster's head, host:port, for RAY_ADDRESS."""
    dashboard_url: str
    """Of the jobs API and the dashboard."""
    folder: str
    """Ray's temporary files."""

    def alive(self) -> bool:
        """Whether the very process still runs."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) < 1 and process.status() != "zombie"
        except psutil.NoSuchProcess:
            return False

    def stop(self) -> None:
        """End the node and all that it started; nothing if it ended already."""
        if self.alive():
            end(psutil.Process(self.pid), grace_seconds=3)
        shutil.rmtree(self.folder, ignore_errors=True)  # only Ray's logs and sockets


def start_head(
    cpus: int,
    *,
    host: str = "127.0.0.1",
    dashboard_port: int = 0,
    inside: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> Node:
    """Start a head node and return when it answers. `inside`: a command that runs it elsewhere.

    RuntimeError with the end of its log when it does not come up.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets' paths must be short
    port = free_port()
    dashboard_port = dashboard_port or free_port()
    options = [
        "--head",
        f"--port={port}",
        f"--temp-dir={folder}",
        f"--dashboard-host={host}",
        f"--dashboard-port={dashboard_port}",
        f"--ray-client-server-port={free_port()}",
    ]
    node = _start(options, cpus, host, folder, (f"{host}:{port}", dashboard_port), inside, environment)
    _wait_until_it_answers(node, inside)
    return node


def join(
    head: Node, cpus: int, *, host: str, inside: tuple[str, ...] = (), environment: dict[str, str] | None = None
) -> Node:
    """Start a node that joins the cluster of `head`."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    where = (head.address, int(head.dashboard_url.rpartition(":")[2]))
    return _start([f"--address={head.address}"], cpus, host, folder, where, inside, environment)


def _start(
    options: list[str],
    cpus: int,
    host: str,
    folder: Path,
    where: tuple[str, int],
    inside: tuple[str, ...],
    environment: dict[str, str] | None,
) -> Node:
    command = [
        *inside,
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--block",
        "--disable-usage-stats",
        f"--num-cpus={cpus}",
        f"--node-ip-address={host}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--dashboard-agent-listen-port={free_port()}",
        *options,
    ]
    # A job's driver runs with the `python` on the head's path.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (folder / "start.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C meant for the one who started it must not reach it
            env={**os.environ, **ENVIRONMENT, "PATH": path, **(environment or {})},
        )
    head_host = where[0].rpartition(":")[0]
    started = psutil.Process(process.pid).create_time()
    return Node(process.pid, started, where[0], f"http://{head_host}:{where[1]}", str(folder))


def _wait_until_it_answers(node: Node, inside: tuple[str, ...]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    url = f"{node.dashboard_url}/api/jobs/"
    while time.monotonic() < deadline and node.alive():
        if inside:
            probe = [*inside, sys.executable, "-c", f"import urllib.request as u; u.urlopen('{url}')"]
            if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
                return
        else:
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return
            except urllib.error.HTTPError as error:
                if error.code == 401:  # it answers: it wants the token of RAY_AUTH_MODE=token
                    return
            except (urllib.error.URLError, OSError):
                pass  # not yet
        time.sleep(0.3)
    log = (Path(node.folder) / "start.log").read_text()[-2000:]
    node.stop()
    raise RuntimeError(f"the Ray head did not answer at {url} within {READY_SECONDS:.0f} s:\n{log}")
