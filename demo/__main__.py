"""The whole workflow on one machine: `make demo`, and `make stop` to end the servers that it started.

Packs a data set, starts a Ray cluster and an MLflow server on loopback, submits a training and follows its log,
evaluates the best checkpoint and prints where to look. Prints every command before it runs it.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from rich.panel import Panel

from cli.command import exit_codes
from cli.errors import Failure
from cluster.nodes import Node, exports
from demo.servers import (
    console,
    running_cluster,
    running_mlflow,
    show_command,
    stop_servers,
    wait_for_mlflow,
)

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
QUIET = {"RAY_LOGGER_LEVEL": "warning", "RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES": ""}
"""For `ray job submit`, which otherwise warns of what it leaves out of the upload: .rayignore says that."""


@dataclass(frozen=True)
class Demo:
    """Pack, train, evaluate, track."""

    data: str = "digits"
    """SOURCE of pipelines.pack: the embedded `digits`, or a folder of images."""
    recipe: str = ""
    """Recipe to train. Default: `digits` for the digits, `photos` for a folder."""
    workers: int = 2
    """Data-parallel workers, one CPU each."""
    folder: Path = ROOT / ".demo"
    """Where all files of the demo go."""
    stop: bool = False
    """Stop the servers that an earlier demo started."""


def main() -> None:
    """Run the demo or stop its servers. Exit code 1 where a step fails."""
    options = tyro.cli(Demo, prog="python -m demo")
    folder = options.folder.absolute()
    with exit_codes():
        if options.stop:
            stop_servers(folder)
        else:
            demo(options, folder)


def demo(options: Demo, folder: Path) -> None:
    """All steps in order; the servers keep running."""
    started = time.monotonic()
    options = replace(options, recipe=options.recipe or ("digits" if options.data == "digits" else "photos"))
    data = folder / "data" / re.sub(r"\W+", "-", options.data).strip("-")
    if not (data / "manifest.json").is_file():
        run([PYTHON, "-m", "pipelines.pack", options.data, str(data)])
    mlflow = running_mlflow(folder)
    cluster = running_cluster(folder, options.workers)  # starts while MLflow does
    show_command(exports(cluster))
    wait_for_mlflow(mlflow, folder)
    number = len(list((folder / "runs").glob(f"{options.recipe}-*"))) + 1
    out = folder / "runs" / f"{options.recipe}-{number}"
    job = submit(options, cluster, mlflow.url, data, out)
    test = ["--data", str(data), "--protocols", "single-crop", "dense", "--track", mlflow.url]
    run([PYTHON, "-m", "vgg.evaluate", str(out), *test], cluster)
    result = json.loads((out / "result.json").read_text())
    best = result["best"]
    console.print(
        Panel(
            f"best validation accuracy  [bold]{best['top1']:.2%}[/] of {best['seen']} images after "
            f"{best['step']} of {result['steps']} steps\n"
            f"largest class alone       {best['majority']:.2%}\n"
            f"speed                     {result['images_per_s']:,.0f} images/s, "
            f"{result['data_wait_share']:.0%} of the time waiting for data\n"
            f"total time                {time.monotonic() - started:.0f} s",
            title=f"VGG {result['settings']['model.configuration']} on {options.data}",
        )
    )
    console.print(f"result   {out}/result.json", markup=False)
    console.print(f"MLflow   {result['tracked_at'] or mlflow.url}", markup=False)
    console.print(
        f"Ray      {cluster.dashboard_url}/#/jobs/{job}, asks for the token in {cluster.token_path}",
        markup=False,
    )
    console.print("`make stop` ends both servers")


def submit(options: Demo, cluster: Node, tracking_uri: str, data: Path, out: Path) -> str:
    """`ray job submit` the training and follow its log; the job's id. Ctrl-C stops the job."""
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
        f"--track={tracking_uri}",
    ]
    command = [ray, "job", "submit", f"--address={cluster.dashboard_url}", f"--submission-id={job}"]
    try:
        run([*command, f"--working-dir={ROOT}", "--", *training], cluster)
    except KeyboardInterrupt:
        console.print("stopping the job")
        run([ray, "job", "stop", f"--address={cluster.dashboard_url}", job], cluster)
        sys.exit(130)
    return job


def run(command: list[str], cluster: Node | None = None) -> None:
    """Show and run a command, as a client of the cluster. Failure if its exit code is not 0."""
    show_command(shlex.join(command))
    environment = cluster.client_environment() if cluster else dict(os.environ)
    environment |= QUIET
    environment["PATH"] = f"{Path(PYTHON).parent}:{os.environ['PATH']}"
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if code != 0:
        raise Failure(f"{shlex.join(command)} ended with exit code {code}; its output is above")


if __name__ == "__main__":
    main()
