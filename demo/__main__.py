"""The whole workflow on one machine: `make demo`, and `make stop` to end the servers that it started.

Packs a data set, starts a Ray cluster and an MLflow server on loopback, submits a training and follows its log,
evaluates the best checkpoint and prints where to look. Prints every command before it runs it. A demo that was
stopped goes on where it was.
"""

import hashlib
import json
import os
import re
import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from cli.command import exit_codes
from cluster.nodes import exports
from demo.card import card
from demo.commands import PYTHON, ROOT, console, run, show_command
from demo.runs import PROTOCOLS, is_trained, run_folder
from demo.servers import running_cluster, running_mlflow, stop_servers, wait_for_mlflow
from demo.training import train


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
    """Run the demo or stop its servers. Exit code 1 where a step fails, 2 for a mistake, 130 for Ctrl-C."""
    options = tyro.cli(Demo, prog="python -m demo")
    folder, again = options.folder.absolute(), command_of(options)
    with exit_codes(interrupted=f"interrupted: `{again}` goes on from there"):
        if options.stop:
            stop_servers(folder)
        else:
            demo(options, folder, again)


def command_of(options: Demo) -> str:
    """The command line that asks for these options."""
    if options != Demo(data=options.data):
        return shlex.join(["python", "-m", "demo", *sys.argv[1:]])
    return "make demo" if options.data == "digits" else shlex.join(["make", "demo", f"DATA={options.data}"])


def demo(options: Demo, folder: Path, again: str) -> None:
    """All steps in order; the servers keep running. `again`: the command that goes on after Ctrl-C."""
    started = time.monotonic()
    options = replace(options, recipe=options.recipe or ("digits" if options.data == "digits" else "photos"))
    data = folder / "data" / packed_name(options.data)
    if (data / "manifest.json").is_file():
        console.print(f"{options.data} was packed before: remove {data} to pack it again", markup=False)
    else:
        run([PYTHON, "-m", "pipelines.pack", options.data, str(data)])
    mlflow = running_mlflow(folder)
    cluster = running_cluster(folder, options.workers)  # starts while MLflow does
    show_command(exports(cluster))
    wait_for_mlflow(mlflow, folder)
    out, why = run_folder(folder / "runs", options.recipe, data)
    if why:
        console.print(why, markup=False)
    page = cluster.dashboard_url
    if not is_trained(out):
        job = f"vgg-{options.recipe}-{int(time.time())}"
        train(training(options, data, out, mlflow.url), job, out, cluster, again)
        page += f"/#/jobs/{job}"
    test = ["--data", str(data), "--protocols", *PROTOCOLS, "--track", mlflow.url]
    run([PYTHON, "-m", "vgg.evaluate", str(out), *test], cluster)
    result = json.loads((out / "result.json").read_text())
    console.print(card(result, options.data, time.monotonic() - started))
    console.print(f"result   {out}/result.json", markup=False)
    console.print(f"MLflow   {result['tracked_at'] or mlflow.url}", markup=False)
    console.print(f"Ray      {page}, asks for the token in {cluster.token_path}", markup=False)
    show_next(out, mlflow.url, folder)


def show_next(out: Path, tracking_uri: str, folder: Path) -> None:
    """The commands that a reader would go on with."""
    predict = shlex.join([PYTHON, "-m", "vgg.predict", "IMAGE", "--net", str(out)])
    report = ["--track", tracking_uri, "--out", str(folder / "report")]
    console.print(f"next     {predict}", markup=False)
    console.print(f"         {shlex.join([PYTHON, '-m', 'vgg.report', *report])}", markup=False)
    console.print("`make stop` ends both servers")


def packed_name(source: str) -> str:
    """Name of the packed data of a source: two folders have two, wherever they lie."""
    if source == "digits":
        return source
    path = (ROOT / source).resolve()
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', path.name)[:40].strip('-')}-{digest[:8]}".lstrip("-")


def training(options: Demo, data: Path, out: Path, tracking_uri: str) -> list[str]:
    """The command of the training, as the cluster runs it."""
    flags = [f"--data={data}", f"--out={out}", f"--layout.workers={options.workers}", f"--track={tracking_uri}"]
    return ["python", "-m", "vgg.train", options.recipe, *flags]


if __name__ == "__main__":
    main()
