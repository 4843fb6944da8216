"""Ray clusters of one machine, for tests and trials; what is started here is ended here, by its own pid.

`LocalCluster` is one node on loopback. `NetworkedCluster` is several, each in a network namespace with an
address of its own (needs root and iproute2).

    python -m cluster.local start --state FILE --cpus 2
    python -m cluster.local stop --state FILE
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import psutil
import tyro

READY_SECONDS = 90.0
OBJECT_STORE_BYTES = 200 * 2**20  # trainings pass nothing large through it
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Otherwise a token that an earlier `ray.init()` left in the home folder would shut out every client that
    # has not asked for it by this variable.
    "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled"),
}


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


class LocalCluster:
    """One node on loopback; a context manager."""

    def __init__(self, cpus: int, *, environment: dict[str, str] | None = None) -> None:
        self.head = start_head(cpus, environment=environment)

    def __enter__(self) -> "LocalCluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.head.stop()


class NetworkedCluster:
    """Nodes with addresses of their own, 10.77.0.1 and on, in network namespaces joined by a bridge."""

    def __init__(self, nodes: int, cpus: int) -> None:
        self._hub = f"vgg{os.getpid()}-hub"
        self._names = [f"vgg{os.getpid()}-{i}" for i in range(nodes)]
        self.hosts = [f"10.77.0.{i + 1}" for i in range(nodes)]
        self.nodes: list[Node] = []
        try:
            self._join_networks()
            # Gloo looks for the interface of its host's name, which all namespaces share.
            environment = {"GLOO_SOCKET_IFNAME": "eth0"}
            self.nodes.append(
                start_head(cpus, host=self.hosts[0], inside=self.inside(0), environment=environment)
            )
            for i in range(1, nodes):
                self.nodes.append(
                    join(
                        self.nodes[0], cpus, host=self.hosts[i], inside=self.inside(i), environment=environment
                    )
                )
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> "NetworkedCluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def inside(self, node: int) -> tuple[str, ...]:
        """The command that runs another on this node's network."""
        return ("ip", "netns", "exec", self._names[node])

    def stop(self) -> None:
        """End the nodes and remove their networks."""
        for node in reversed(self.nodes):
            node.stop()
        for name in [*self._names, self._hub]:
            if (Path("/run/netns") / name).exists():
                _ip("netns", "delete", name)

    def _join_networks(self) -> None:
        _ip("netns", "add", self._hub)
        _ip("-n", self._hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._hub, "link", "set", "br0", "up")
        for i, (name, host) in enumerate(zip(self._names, self.hosts, strict=True)):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", f"port{i}", "netns", self._hub)
            _ip("-n", self._hub, "link", "set", f"port{i}", "master", "br0", "up")
            _ip("-n", name, "address", "add", f"{host}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def free_port(preferred: int = 0) -> int:
    """A TCP port of loopback that nobody listens on; the preferred one if it is free."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Start:
    """Start a one-node cluster on loopback; returns when it is ready."""

    state: Path
    """File to remember it in."""
    cpus: int = 2
    """Logical CPUs it offers."""
    dashboard_port: int = 8265
    """Port of the dashboard and the jobs API; another free one if it is taken."""


@dataclass(frozen=True)
class Stop:
    """End the cluster of a state file."""

    state: Path


def main() -> None:
    """Start or stop."""
    command = tyro.cli(
        Annotated[Start, tyro.conf.subcommand("start")] | Annotated[Stop, tyro.conf.subcommand("stop")],
        prog="python -m cluster.local",
    )
    if isinstance(command, Start):
        node = start_head(command.cpus, dashboard_port=free_port(command.dashboard_port))
        command.state.parent.mkdir(parents=True, exist_ok=True)
        command.state.write_text(json.dumps(asdict(node)))
        print(f"cluster {node.address}, jobs and dashboard at {node.dashboard_url}")
    elif command.state.is_file():
        Node(**json.loads(command.state.read_text())).stop()
        command.state.unlink()


if __name__ == "__main__":
    main()
