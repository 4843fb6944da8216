"""The servers of the demo on loopback: a Ray cluster and MLflow, shared by successive demos until stopped."""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from cli.errors import Failure
from cluster.nodes import Node, start_head
from cluster.processes import ProcessIdentity, start_time, usual_port
from cluster.readiness import http_server_answers, wait_until_ready
from demo.commands import console, show_command

MLFLOW_TIMEOUT_SECONDS = 90.0
STOP_GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class MlflowServer(ProcessIdentity):
    """The process of an MLflow server."""

    url: str


def running_cluster(folder: Path, cpus: int) -> Node:
    """The cluster of an earlier demo, if it still runs, has a token and enough CPUs, else a new one."""
    state = folder / "cluster.json"
    if state.is_file():
        known = json.loads(state.read_text())
        node = Node(**known["node"])
        if node.alive() and known["cpus"] >= cpus and node.token_path:
            return node
        node.stop()
    port = usual_port(8265, "Ray's dashboard")
    show_command(f"ray start --head --num-cpus={cpus} --dashboard-port={port} …")
    node = start_head(cpus, dashboard_port=port)
    state.write_text(json.dumps({"node": asdict(node), "cpus": cpus}))
    return node


def running_mlflow(folder: Path) -> MlflowServer:
    """The MLflow server of an earlier demo, if it still runs, else a new one, which may not answer yet."""
    state = folder / "mlflow.json"
    if state.is_file():
        server = MlflowServer(**json.loads(state.read_text()))
        if server.alive():
            return server
    port = usual_port(5000, "MLflow")
    (folder / "mlflow").mkdir(parents=True, exist_ok=True)
    command = [
        str(Path(sys.executable).with_name("mlflow")),
        "server",
        f"--backend-store-uri=sqlite:///{folder}/mlflow/mlflow.db",
        f"--artifacts-destination={folder}/mlflow/artifacts",
        "--host=127.0.0.1",
        f"--port={port}",
        "--workers=1",
    ]
    show_command(shlex.join(command))
    with (folder / "mlflow" / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # MLflow's job runner serves features that are not used here, and starts four more processes.
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
    # While `process` is referenced, it stays in the process table even if it has ended.
    server = MlflowServer(process.pid, start_time(process.pid), f"http://127.0.0.1:{port}")
    state.write_text(json.dumps(asdict(server)))
    return server


def wait_for_mlflow(server: MlflowServer, folder: Path) -> None:
    """Return when the server answers. Failure where it does not."""
    url = f"{server.url}/health"
    if not wait_until_ready(server, lambda: http_server_answers(url), MLFLOW_TIMEOUT_SECONDS):
        raise Failure(f"the MLflow server did not come up; see {folder}/mlflow/server.log")


def stop_servers(folder: Path) -> None:
    """Stop the servers that an earlier demo left running, and say which."""
    cluster, mlflow = folder / "cluster.json", folder / "mlflow.json"
    stopped = []
    if cluster.is_file():
        node = Node(**json.loads(cluster.read_text())["node"])
        stopped += ["the Ray cluster"] if node.alive() else []
        node.stop()  # removes its files also where it has ended
        cluster.unlink()
    if mlflow.is_file():
        server = MlflowServer(**json.loads(mlflow.read_text()))
        stopped += ["the MLflow server"] if server.alive() else []
        server.terminate(STOP_GRACE_SECONDS)
        mlflow.unlink()
    for each in stopped:
        console.print(f"{each} is stopped")
    if not stopped:
        console.print("nothing of the demo runs")
