"""Data wait of a consumer at a given rate and number of cores: `python -m benchmarks.stall`.

The consumer is simulated: it takes a batch, sleeps for batch / rate seconds as a host does while its GPU
computes, and takes the next. The share of time it waits for batches is its data wait, as trainings report it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.data import ROOT, prepare, require_photographs, write_result
from benchmarks.loaders import endless
from benchmarks.machine import describe
from cli.command import exit_codes
from pipelines.loading.loaders import TrainLoader

SWEEP_PROGRAM = """
import json, os, sys
cores, folder, seconds, batch, prefetch, shares, switch_ms = sys.argv[1:]
os.sched_setaffinity(0, json.loads(cores))
sys.setswitchinterval(float(switch_ms) / 1000)
from pathlib import Path
from benchmarks.stall import sweep
rows = sweep(Path(folder), float(seconds), int(batch), int(prefetch), json.loads(shares))
print(json.dumps(rows), flush=True)
"""


@dataclass(frozen=True)
class Stall:
    """Data wait of a simulated consumer."""

    photographs: Path = ROOT.parent / "shared" / "data" / "imagenet-sample-250.tar"
    """Archive of full-size JPEG files."""
    cores: tuple[int, ...] = (1, 2)
    """Numbers of cores to measure on."""
    shares: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 1.0, 1.2)
    """Rates to request, as shares of the pipeline's rate to a consumer that takes no time."""
    seconds: float = 8.0
    """Duration of each measurement."""
    batch: int = 128
    """Images per batch."""
    prefetch: int = 2
    """As --layout.prefetch."""
    switch_ms: float = 1000 * sys.getswitchinterval()
    """After how long the interpreter takes the lock from a thread that others wait for."""
    out: Path = ROOT / "benchmarks" / "results" / "stall.json"


def consume(loader: TrainLoader, rate: float, seconds: float, batch: int) -> dict[str, float]:
    """Take batches at `rate` images/s (0: without a pause); the rate delivered and the data wait."""
    started, before, waited, images = time.perf_counter(), time.process_time(), 0.0, 0
    while (now := time.perf_counter()) - started < seconds:
        next(loader)
        got = time.perf_counter()
        waited += got - now
        images += batch
        if rate:
            time.sleep(max(got + batch / rate - time.perf_counter(), 0))
    took = time.perf_counter() - started
    return {
        "images_per_s": images / took,
        "data_wait_share": waited / took,
        "cpu_ms_per_image": 1000 * (time.process_time() - before) / images,
    }


def sweep(folder: Path, seconds: float, batch: int, prefetch: int, shares: list[float]) -> list[dict[str, Any]]:
    """Measure on the cores of this process: a consumer that takes no time, then shares of its rate."""
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    with endless(folder, batch, cores, prefetch) as loader:
        for _ in range(2 + prefetch):
            next(loader)
        most = consume(loader, 0, seconds, batch)
        rows: list[dict[str, Any]] = [{"cores": cores, "asked": None, **most}]
        for share in shares:
            rate = share * most["images_per_s"]
            rows.append({"cores": cores, "asked": rate, **consume(loader, rate, seconds, batch)})
    return rows


def main() -> None:
    """Measure and write. Exit code 2 where the photographs do not exist."""
    options, console = tyro.cli(Stall, prog="python -m benchmarks.stall"), Console(soft_wrap=True)
    with exit_codes():
        require_photographs(options.photographs)
        rows = measure(options)
        write_result({"machine": describe(torch.device("cpu")), "results": rows}, options.out)
        console.print(table(rows))
        console.print(f"written to {options.out}", markup=False)


def measure(options: Stall) -> list[dict[str, Any]]:
    """The rows of `sweep` on each number of cores, each in a process of its own."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        prepare(options.photographs, Path(temporary))
        for cores in options.cores:
            allowed = sorted(os.sched_getaffinity(0))[:cores]
            arguments: list[Any] = [allowed, temporary, options.seconds, options.batch, options.prefetch]
            arguments += [json.dumps(options.shares), options.switch_ms]
            done = subprocess.run(
                [sys.executable, "-c", SWEEP_PROGRAM, *map(str, arguments)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                check=True,
            )
            rows += json.loads(done.stdout)
    return rows


def table(rows: list[dict[str, Any]]) -> Table:
    """The results for the terminal."""
    shown = Table("cores", "asked, images/s", "delivered", "data wait", "CPU ms an image")
    for row in rows:
        asked = "as many as it can" if row["asked"] is None else f"{row['asked']:,.0f}"
        wait = f"{row['data_wait_share']:.1%}"
        shown.add_row(
            str(row["cores"]), asked, f"{row['images_per_s']:,.0f}", wait, f"{row['cpu_ms_per_image']:.2f}"
        )
    return shown


if __name__ == "__main__":
    main()
