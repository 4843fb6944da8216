"""Ray nodes as processes of this machine: start one, wait until it is ready, stop it."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cli.errors import Failure
from cluster.access import access_variables, create_token, environment_with
from cluster.processes import ProcessIdentity, free_port, start_time
from cluster.readiness import http_server_answers, wait_until_ready

READY_TIMEOUT_SECONDS = 90.0
STOP_GRACE_SECONDS = 3.0
OBJECT_STORE_BYTES = 200 * 2**20  # trainings pass nothing large through it
LOG_TAIL_CHARACTERS = 2000
RAY_FOLDER = "ray"  # below a node's folder; short, as the paths of Unix sockets must be
PROBE = "import sys; from cluster.readiness import *; sys.exit(not http_server_answers(sys.argv[1]))"

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_JOB_STOP_WAIT_TIME_S": "30",  # what a stopped training is given to save its step
    "RAY_health_check_period_ms": "1000",  # a node that died is given up after 5 s; one cut off, after a minute
}


@dataclass(frozen=True)
class Host:
    """Where a node runs and listens; by default this machine's loopback interface."""

    ip: str = "127.0.0.1"
    command_prefix: tuple[str, ...] = ()
    """Command that runs another one there, such as `ip netns exec NAME`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables on top of this process's own."""

    @property
    def on_loopback(self) -> bool:
        """Whether nobody but this machine can reach it."""
        return self.ip == "127.0.0.1"


LOOPBACK = Host()


@dataclass(frozen=True)
class Node(ProcessIdentity):
    """A Ray node: its `ray start --block` process and the addresses of its cluster."""

    address: str
    """host:port of the cluster's head node, for RAY_ADDRESS."""
    dashboard_url: str
    """URL of the jobs API and the dashboard."""
    folder: str
    """Ray's temporary files: logs and sockets; closed to other users."""
    token_path: str = ""
    """File with the cluster's token, readable by this user alone. Empty: of a cluster without one."""

    def access(self) -> dict[str, str]:
        """The variables that a client of this cluster needs, for `ray` and for our commands."""
        on_loopback = self.address.startswith(f"{LOOPBACK.ip}:")
        return {"RAY_ADDRESS": self.address, **access_variables(self.token_path, on_loopback=on_loopback)}

    def client_environment(self) -> dict[str, str]:
        """The environment of a process that is to use this cluster, whichever this process uses."""
        return environment_with(self.access())

    def stop(self) -> None:
        """End the node with all its child processes, if it still runs, and remove its temporary files."""
        self.terminate(STOP_GRACE_SECONDS)
        shutil.rmtree(self.folder, ignore_errors=True)


def start_head(cpus: int, *, host: Host = LOOPBACK, dashboard_port: int = 0) -> Node:
    """Start a head node and return when its jobs API answers; 0: any free port for the dashboard.

    Failure, with the end of the node's log, if it does not answer.
    """
    folder, port = _temporary_folder(), free_port()
    token = create_token(folder)
    dashboard_port = dashboard_port or free_port()
    command = [
        *_start_command(cpus, host),
        "--head",
        f"--port={port}",
        f"--temp-dir={folder / RAY_FOLDER}",
        f"--dashboard-host={host.ip}",
        f"--dashboard-port={dashboard_port}",
        f"--ray-client-server-port={free_port()}",
    ]
    pid, started = _launch(command, host, folder, token)
    url = f"http://{host.ip}:{dashboard_port}"
    node = Node(pid, started, f"{host.ip}:{port}", url, str(folder), str(token))
    try:
        _wait_for_jobs_api(node, host)
    except KeyboardInterrupt:  # nobody else knows of the node yet
        node.stop()
        raise
    return node


def start_worker_node(head: Node, cpus: int, host: Host) -> Node:
    """Start a node that joins the cluster of `head`; returns before it has joined."""
    folder = _temporary_folder()
    command = [*_start_command(cpus, host), f"--address={head.address}"]
    pid, started = _launch(command, host, folder, Path(head.token_path))
    return Node(pid, started, head.address, head.dashboard_url, str(folder), head.token_path)


def exports(node: Node) -> str:
    """The shell command that lets `ray` and our commands use the cluster."""
    return "export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in node.access().items())


def _temporary_folder() -> Path:
    """A folder that only this user can enter: Ray opens its own, below, to everybody."""
    return Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # paths of Unix sockets must be short


def _start_command(cpus: int, host: Host) -> list[str]:
    return [
        *host.command_prefix,
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--block",
        "--disable-usage-stats",
        f"--num-cpus={cpus}",
        f"--node-ip-address={host.ip}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--dashboard-agent-listen-port={free_port()}",
    ]


def _launch(command: list[str], host: Host, folder: Path, token: Path) -> tuple[int, float]:
    """Run the command in the background with its output in `folder`/start.log; its PID and start time."""
    # The driver of a job runs with the `python` on the head node's path.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    access = access_variables(str(token), on_loopback=host.on_loopback)
    with (folder / "start.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal must not reach the node
            env={**environment_with(access), **ENVIRONMENT, "PATH": path, **host.environment},
        )
    # While `process` is referenced even one that has ended stays in the process table.
    return process.pid, start_time(process.pid)


def _wait_for_jobs_api(node: Node, host: Host) -> None:
    url = f"{node.dashboard_url}/api/jobs/"

    def answers() -> bool:
        if not host.command_prefix:
            return http_server_answers(url)
        probe = [*host.command_prefix, sys.executable, "-c", PROBE, url]
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0

    if not wait_until_ready(node, answers, READY_TIMEOUT_SECONDS):
        log = (Path(node.folder) / "start.log").read_text()[-LOG_TAIL_CHARACTERS:]
        node.stop()
        raise Failure(f"the Ray head node did not answer at {url} within {READY_TIMEOUT_SECONDS:.0f} s:\n{log}")
