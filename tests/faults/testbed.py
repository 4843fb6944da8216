"""Machines of their own on one network: a head with an MLflow server, and nodes of one CPU each.

Everything is real: network namespaces, Ray's nodes, processes that are killed. One node more than a training
has workers stands ready.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from cluster.namespaces import Network
from cluster.nodes import PROBE, Host, Node, start_head
from cluster.processes import free_port
from tests import entry_point
from tests.conftest import ROOT
from tests.joined import joined

WORKERS = 2
MACHINES = WORKERS + 2
"""The head, a node for each worker, and a spare one."""
READY_SECONDS = 400.0
DISK_MB = 96


class Testbed:
    """A context manager; needs root and iproute2."""

    __test__ = False

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None) -> None:
        """`variables`: of the nodes and the commands."""
        self.folder, self.network = folder, Network(MACHINES)
        self._variables = variables or {}
        self._hosts = [self._host(i) for i in range(MACHINES)]
        self._head: Node | None = None
        self._nodes: dict[int, Node] = {}
        self._server: subprocess.Popen[bytes] | None = None
        self._port = free_port()
        self.complete_since = 0.0
        """Unix time since which no machine has been missing."""
        self.small_disk, self.temporary = folder / "small-disk", folder / "tmp"
        self.tracking_uri = f"http://{self.network.address(0)}:{self._port}"

    def __enter__(self) -> "Testbed":
        try:
            self._mount()
            self.start_server()
            self.repair()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in self._nodes.values():
            node.stop()
        if self._head is not None:
            self._head.stop()
        self.kill_server()
        self.network.close()
        if self.small_disk.is_mount():
            subprocess.run(["umount", self.small_disk], check=True)

    def _host(self, machine: int) -> Host:
        host = self.network.host(machine)
        return replace(host, environment={**host.environment, **self._variables})

    def _mount(self) -> None:
        """Before any machine starts: each has the mounts of that moment."""
        self.small_disk.mkdir()
        self.temporary.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={DISK_MB}m"]
        subprocess.run(["mount", *options, "tmpfs", self.small_disk], check=True)

    @property
    def head(self) -> Node:
        """The head's node."""
        assert self._head is not None
        return self._head

    def nodes(self) -> dict[int, Node]:
        """Machine -> node, of those with CPUs."""
        return self._nodes

    def repair(self) -> None:
        """Plug in what was unplugged, and start what has ended: all of it where the head has."""
        for machine in range(MACHINES):
            self.network.mend(machine)
        if self._head is None or not self._head.alive():
            for each in self._nodes.values():
                each.stop()
            self._nodes = {}
            self._head = start_head(0, host=self._hosts[0])
        for machine in range(1, MACHINES):
            if (node := self._nodes.get(machine)) is None or not node.alive():
                self._nodes[machine] = joined(self.head, self._hosts[machine])
                self.complete_since = time.time()
        if self._server is None:
            self.start_server()

    def start(self, command: list[str], log: Path) -> subprocess.Popen[bytes]:
        """Run a command on the head's machine; what it says is added to `log`."""
        env = {**entry_point.environment(self.head), "TMPDIR": str(self.temporary), **self._variables}
        with log.open("ab") as file:
            whole = [*self._hosts[0].command_prefix, *command]
            return subprocess.Popen(whole, cwd=ROOT, env=env, stdout=file, stderr=file)

    def workers(self) -> dict[int, list[psutil.Process]]:
        """Machine -> processes of trainings' workers."""
        return {machine: _named("RayTrainWorker", node) for machine, node in self._nodes.items()}

    def named(self, name: str) -> list[psutil.Process]:
        """Ray's processes whose command says so, wherever they are."""
        nodes = [self.head, *self._nodes.values()]
        return [found for node in nodes for found in _named(name, node)]

    def server(self) -> list[psutil.Process]:
        """MLflow's processes."""
        with suppress(psutil.NoSuchProcess):
            if self._server is not None:
                process = psutil.Process(self._server.pid)
                return [process, *process.children(recursive=True)]
        return []

    def start_server(self) -> None:
        """Start MLflow, and return when it answers."""
        prefix, folder = self._hosts[0].command_prefix, self.folder / "mlflow"
        folder.mkdir(exist_ok=True)
        command = [str(Path(sys.executable).with_name("mlflow")), "server", f"--host={self.network.address(0)}"]
        command += [f"--port={self._port}", "--workers=1", f"--backend-store-uri=sqlite:///{folder}/mlflow.db"]
        command += [f"--artifacts-destination={folder}/artifacts"]
        with (folder / "server.log").open("ab") as log:
            # Its jobs would be nine processes more.
            env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            self._server = subprocess.Popen([*prefix, *command], env=env, stdout=log, stderr=log)
        deadline = time.monotonic() + READY_SECONDS
        probe = [*prefix, sys.executable, "-c", PROBE, f"{self.tracking_uri}/health"]
        while subprocess.run(probe, cwd=ROOT, check=False).returncode:
            assert time.monotonic() < deadline, (folder / "server.log").read_text()

    def kill_server(self) -> None:
        """SIGKILL to MLflow and its children."""
        if self._server is not None:
            kill_tree(self._server.pid)
            self._server.wait()
            self._server = None

    def points(self, experiment: str) -> list[tuple[int, float]]:
        """Step and Unix time of every point of the training loss that MLflow has got, by time."""
        query = """
            SELECT m.step, m.timestamp FROM metrics m JOIN runs r USING (run_uuid)
            JOIN experiments e USING (experiment_id)
            WHERE e.name = ? AND m.key = 'train/loss' ORDER BY m.timestamp
        """
        found = self._query(query, experiment)
        return [(int(step), milliseconds / 1000) for step, milliseconds in found]

    def status(self, experiment: str) -> str:
        """Of the run in MLflow."""
        query = "SELECT status FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name = ?"
        return ", ".join(str(row[0]) for row in self._query(query, experiment))

    def _query(self, query: str, experiment: str) -> list[tuple[Any, ...]]:
        database = f"file:{self.folder}/mlflow/mlflow.db?mode=ro"
        with closing(sqlite3.connect(database, uri=True, timeout=30)) as connection:
            return connection.execute(query, (experiment,)).fetchall()


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and its descendants: a power cut."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGKILL)


def _named(name: str, node: Node) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        process = node.process()
        for each in process.children(recursive=True) if process else []:
            with suppress(psutil.NoSuchProcess):
                if name in " ".join(each.cmdline()):
                    found.append(each)
    return found
