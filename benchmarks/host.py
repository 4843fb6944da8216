"""What the host does for an update besides the net's arithmetic: `python -m benchmarks.host`.

    python -m benchmarks.host --against /path/to/another/checkout

trains a net that is so small that the host is what counts, each time in a process of its own:
    plain; with many checkpoints; with large ones; tracked, with pictures at each validation; beside them
    torchvision's net in a loop of plain PyTorch, from one batch in memory
the checkouts take turns in each; milliseconds of an update by part, and its longest, as a table and as JSON
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.data import write_result
from benchmarks.host_worker import CPU, PARTS, UPDATE, Setting
from benchmarks.machine import describe
from cli.command import arguments, exit_codes
from cli.errors import Failure, require_known
from cluster.processes import free_port
from pipelines.pack import pack
from pipelines.packing.options import PackOptions

ROOT = Path(__file__).resolve().parent.parent
TRAININGS = ("bare", "plain", "checkpoints", "large checkpoints", "tracked")
WARM_UP_UPDATES = 20
SERVER_SECONDS = 90.0


@dataclass(frozen=True)
class Host:
    """Host time of an update."""

    against: Path | None = None
    """Another checkout, which takes turns with this one: what was before."""
    trainings: tuple[str, ...] = TRAININGS
    """bare: the loop of plain PyTorch. plain: ours, no checkpoint. checkpoints: one every 20 updates. large
    checkpoints: fewer, as large as those of a large net. tracked: with pictures at each validation."""
    updates: int = 600
    batch: int = 16
    width: float = 0.0625
    """Factor on channels and units of configuration A at 32×32 pixels."""
    validation_updates: int = 120
    """At least, between validations of a tracked training."""
    ballast_mb: int = 256
    """What a large checkpoint holds beside the small net; configuration D has 553 MB of weights."""
    large_updates: int = 250
    """Between large checkpoints, which take seconds to write."""
    rounds: int = 3
    out: Path = ROOT / "benchmarks" / "results" / "host.json"


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """The address of a server of its own."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", f"--backend-store-uri=sqlite:///{folder}/mlflow.db"]
    command += [f"--artifacts-destination={folder}/artifacts", f"--port={port}", "--workers=1"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", folder / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def wait_for(address: str, log: Path) -> None:
    """Return when a server answers."""
    deadline = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise Failure(f"MLflow's server did not come up: {log.read_text()[-500:]}")


def setting(options: Host, training: str, folder: Path, server: str | None) -> Setting:
    """What a training of this kind is."""
    never = options.updates + 1
    plain = Setting(
        data=str(folder / "digits"),
        out=tempfile.mkdtemp(dir=folder),
        tracking_uri=None,
        updates=options.updates,
        batch=options.batch,
        width=options.width,
        validation_updates=never,
        checkpoint_updates=never,
        ballast_mb=0,
    )
    if training == "bare":
        return replace(plain, bare=True)
    if training == "checkpoints":
        return replace(plain, checkpoint_updates=20)
    if training == "large checkpoints":
        return replace(plain, checkpoint_updates=options.large_updates, ballast_mb=options.ballast_mb)
    if training == "tracked":
        return replace(plain, tracking_uri=server, validation_updates=options.validation_updates)
    return plain


def train(checkout: Path, what: Setting) -> list[dict[str, float]]:
    """Seconds of each update by part, after the first few."""
    found = Path(what.out) / "updates.json"
    script = ROOT / "benchmarks" / "host_worker.py"
    done = subprocess.run(
        [sys.executable, "-P", str(script), json.dumps(asdict(what)), str(found)],
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failure(f"a training failed: {done.stdout[-2000:]}")
    updates: list[dict[str, float]] = json.loads(found.read_text())
    return updates[WARM_UP_UPDATES:]


def summary(rounds: list[list[dict[str, float]]]) -> dict[str, Any]:
    """Milliseconds by part: of an update in the middle, of all in the mean, of the longest in each round.

    `stall`: an update without its validation.
    """
    updates = [update for each in rounds for update in each]
    found: dict[str, Any] = {}
    for part in (UPDATE, CPU, *PARTS, "rest"):
        if any(part in update for update in updates):
            seconds = [update.get(part, 0.0) for update in updates]
            longest = [1000 * max(update.get(part, 0.0) for update in each) for each in rounds]
            found[part] = {"median": 1000 * median(seconds), "mean": 1000 * mean(seconds), "longest": longest}
    stalls = [[1000 * (update[UPDATE] - update.get("validation", 0.0)) for update in each] for each in rounds]
    every = [stall for each in stalls for stall in each]
    found["stall"] = {"median": median(every), "mean": mean(every), "longest": [max(each) for each in stalls]}
    return found


def measure(options: Host, folder: Path, server: str | None) -> dict[str, Any]:
    """By training and checkout: `summary`."""
    checkouts = {"here": ROOT}
    if options.against is not None:
        checkouts = {"against": options.against.resolve(), **checkouts}
    found = {}
    for training in options.trainings:
        rounds: dict[str, list[list[dict[str, float]]]] = {name: [] for name in checkouts}
        for turn in range(options.rounds):
            for name in list(checkouts)[:: 1 if turn % 2 == 0 else -1]:
                rounds[name].append(train(checkouts[name], setting(options, training, folder, server)))
        found[training] = {name: summary(each) for name, each in rounds.items()}
    return found


def commit(checkout: Path) -> str:
    """What is checked out there."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def show(trainings: dict[str, Any]) -> None:
    """Print a table of each training."""
    for training, checkouts in trainings.items():
        table = Table("ms of an update", title=training)
        for name in checkouts:
            for column in ("median", "mean", "longest"):
                table.add_column(column if len(checkouts) == 1 else f"{name}: {column}", justify="right")
        for part in next(iter(checkouts.values())):
            cells = []
            for found in checkouts.values():
                row = found.get(part, {"median": 0.0, "mean": 0.0, "longest": [0.0]})
                cells += [row["median"], row["mean"], median(row["longest"])]
            table.add_row(part, *(f"{cell:,.2f}" for cell in cells))
        Console(soft_wrap=True).print(table)


def main() -> None:
    """Measure, print, and write the result."""
    options = tyro.cli(Host, prog="python -m benchmarks.host", args=arguments())
    with exit_codes(), tempfile.TemporaryDirectory() as temporary:
        require_known(options.trainings, TRAININGS, "--trainings")
        folder = Path(temporary)
        pack(PackOptions("digits", folder / "digits", workers=1))
        if "tracked" in options.trainings:
            with mlflow_server(folder) as server:
                trainings = measure(options, folder, server)
        else:
            trainings = measure(options, folder, None)
        show(trainings)
        kept = {key: value for key, value in asdict(options).items() if key not in ("out", "against")}
        commits = {"here": commit(ROOT)}
        if options.against is not None:
            commits["against"] = commit(options.against)
        machine = describe(torch.device("cpu"))
        write_result(
            {"options": kept, "commits": commits, "machine": machine, "trainings": trainings}, options.out
        )


if __name__ == "__main__":
    main()
