"""The main job on one machine: `make demo`, and `make stop` to end what it started.

Packs a data set, starts a Ray cluster and an MLflow server on loopback, submits a training, follows it,
evaluates its best checkpoint and says where to look. Every command it runs is shown first.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import tyro
from rich.console import Console
from rich.panel import Panel

from cluster.nodes import Node, start_head
from cluster.processes import end, free_port

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
MLFLOW_SECONDS = 90.0

console = Console(soft_wrap=True, highlight=False)


@dataclass(frozen=True)
class Demo:
    """Pack, train, evaluate, look."""

    data: str = "digits"
    """A source that pipelines.pack reads: the embedded `digits`, or a folder of images."""
    recipe: str = "digits"
    """Recipe to train."""
    workers: int = 2
    folder: Path = ROOT / ".demo"
    """Where everything lies that the demo makes."""
    stop: bool = False
    """End the servers that an earlier demo started."""


class StepFailed(Exception):
    """A command did not do its work; the message says which and what to do."""


def main() -> None:
    """Run the demo or stop its servers."""
    options = tyro.cli(Demo, prog="python -m demo")
    folder = options.folder.absolute()
    if options.stop:
        stop(folder)
        return
    try:
        demo(options, folder)
    except StepFailed as error:
        console.print(f"[bold red]failed:[/] {error}")
        sys.exit(1)


def demo(options: Demo, folder: Path) -> None:
    """Everything in order; the servers stay up."""
    began = time.monotonic()
    data = folder / "data" / re.sub(r"\W+", "-", options.data).strip("-")
    if not (data / "manifest.json").is_file():
        run([PYTHON, "-m", "pipelines.pack", options.data, str(data)])
    tracking, server = running_mlflow(folder)
    cluster = running_cluster(folder, options.workers)  # comes up while MLflow does
    wait_for_mlflow(tracking, server, folder)
    number = len(list((folder / "runs").glob("*"))) + 1
    out = folder / "runs" / f"{options.recipe}-{number}"
    submit(options, cluster, tracking, data, out)
    test = ["--data", str(data), "--protocols", "single-crop", "dense", "--track", tracking]
    run([PYTHON, "-m", "vgg.evaluate", str(out), *test], RAY_ADDRESS=cluster.address)
    result = json.loads((out / "result.json").read_text())
    best = result["best"]
    console.print(
        Panel(
            f"best validation accuracy  [bold]{best['top1']:.2%}[/] after {best['step']} of "
            f"{result['steps']} steps\n"
            f"speed                     {result['images_per_s']:,.0f} images/s, "
            f"{result['data_wait_share']:.0%} of the time waiting for data\n"
            f"took {time.monotonic() - began:.0f} s in all",
            title=f"VGG {result['settings']['model.configuration']} on {options.data}",
        )
    )
    console.print(f"result   {out}/result.json", markup=False)
    console.print(f"MLflow   {result['tracked_at'] or tracking}", markup=False)
    console.print(f"Ray      {cluster.dashboard_url}", markup=False)
    console.print("`make stop` ends both servers")


def submit(options: Demo, cluster: Node, tracking: str, data: Path, out: Path) -> None:
    """`ray job submit` the training and follow its log; Ctrl-C stops the job."""
    job = f"vgg-{options.recipe}-{int(time.time())}"
    ray = str(Path(PYTHON).with_name("ray"))
    training = [
        "python",
        "-m",
        "vgg.train",
        options.recipe,
        f"--data={data}",
        f"--out={out}",
        f"--layout.workers={options.workers}",
        f"--track={tracking}",
    ]
    command = [ray, "job", "submit", f"--address={cluster.dashboard_url}", f"--submission-id={job}"]
    try:
        run([*command, f"--working-dir={ROOT}", "--", *training])
    except KeyboardInterrupt:
        console.print("stopping the job")
        run([ray, "job", "stop", f"--address={cluster.dashboard_url}", job])
        sys.exit(130)


def run(command: list[str], **variables: str) -> None:
    """Show a command and run it, with these environment variables. StepFailed where it fails."""
    console.print(f"[bold cyan]$[/] {shlex.join(command)}", markup=True)
    environment = {**os.environ, **variables, "PATH": f"{Path(PYTHON).parent}:{os.environ['PATH']}"}
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if code != 0:
        raise StepFailed(f"{shlex.join(command)} ended with exit code {code}; what it said is above")


def running_cluster(folder: Path, cpus: int) -> Node:
    """The cluster of an earlier demo, if it still runs and is large enough, else a new one."""
    state = folder / "cluster.json"
    if state.is_file():
        known = json.loads(state.read_text())
        node = Node(**known["node"])
        if node.alive() and known["cpus"] >= cpus:
            return node
        node.stop()
    port = free_port(8265)
    console.print(f"[bold cyan]$[/] ray start --head --num-cpus={cpus} --dashboard-port={port} …")
    node = start_head(cpus, dashboard_port=port)
    state.write_text(json.dumps({"node": asdict(node), "cpus": cpus}))
    return node


def running_mlflow(folder: Path) -> tuple[str, psutil.Process]:
    """URL of the MLflow server of an earlier demo, if it still runs, else of a new one; its process."""
    state = folder / "mlflow.json"
    if state.is_file():
        known = json.loads(state.read_text())
        if (process := process_of(known)) is not None:
            return known["url"], process
    port = free_port(5000)
    url = f"http://127.0.0.1:{port}"
    (folder / "mlflow").mkdir(exist_ok=True)
    command = [
        str(Path(PYTHON).with_name("mlflow")),
        "server",
        f"--backend-store-uri=sqlite:///{folder}/mlflow/mlflow.db",
        f"--artifacts-destination={folder}/mlflow/artifacts",
        "--host=127.0.0.1",
        f"--port={port}",
        "--workers=1",
    ]
    console.print(f"[bold cyan]$[/] {shlex.join(command)}", markup=True)
    with (folder / "mlflow" / "server.log").open("ab") as log:
        started = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # The server's job runner is for other features, and takes four more processes.
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
    process = psutil.Process(started.pid)
    known = {"pid": process.pid, "started": process.create_time(), "url": url}
    state.write_text(json.dumps(known))
    return url, process


def wait_for_mlflow(url: str, process: psutil.Process, folder: Path) -> None:
    """Return when the server answers. StepFailed where it does not."""
    deadline = time.monotonic() + MLFLOW_SECONDS
    while process.is_running() and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)  # not yet
    raise StepFailed(f"the MLflow server did not come up; see {folder}/mlflow/server.log")


def process_of(known: dict) -> psutil.Process | None:
    """The very process that was started, if it still runs: a number alone may be another's by now."""
    try:
        process = psutil.Process(known["pid"])
        return process if abs(process.create_time() - known["started"]) < 1 else None
    except psutil.NoSuchProcess:
        return None


def stop(folder: Path) -> None:
    """End what an earlier demo left running."""
    cluster, mlflow = folder / "cluster.json", folder / "mlflow.json"
    if cluster.is_file():
        Node(**json.loads(cluster.read_text())["node"]).stop()
        cluster.unlink()
        console.print("the Ray cluster is stopped")
    if mlflow.is_file():
        process = process_of(json.loads(mlflow.read_text()))
        if process is not None:
            end(process, grace_seconds=10)
        mlflow.unlink()
        console.print("the MLflow server is stopped")


if __name__ == "__main__":
    main()
