"""Bytes and seconds of a step by layout, on machines joined by a slow link: `python -m benchmarks.scaling`.

The machines are network namespaces of this one, their links shaped by tc; needs root and iproute2. With
`--table` nothing is measured: the cost model's table for configuration D is printed.
"""

import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe
from benchmarks.scaling_worker import Setting
from benchmarks.traffic import Machine, table
from cli.command import arguments, exit_codes
from cli.errors import Failure
from cluster.namespaces import INTERFACE, Network
from vgg.net.architecture import Architecture

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Scaling:
    """Layouts side by side on a shaped link."""

    workers: tuple[int, ...] = (2, 4)
    megabits_per_s: float = 100.0
    """Of each worker's link, in either direction."""
    scale: int = 4
    """Divides the channels, units, classes and rows of configuration D at a batch of 256: 16 times fewer
    numbers in the gradient, in the same proportions. 1: the real sizes, 4 GB of memory a worker."""
    steps: int = 2
    """Of a layout before the next has its turn."""
    rounds: int = 3
    seconds: int = 1800
    """Most that one number of workers may take."""
    table: bool = False
    """Only print the cost model's table."""
    out: Path = ROOT / "benchmarks" / "results" / "scaling.json"


def measure(options: Scaling, world: int) -> dict[str, dict[str, float]]:
    """By layout, over the workers: the slowest's seconds of a step, the busiest's bytes sent."""
    with Network(world, options.megabits_per_s * 1e6) as network, ExitStack() as processes:
        setting = Setting(world, f"{network.address(0)}:29500", options.scale, options.steps, options.rounds)
        workers = []
        for rank in range(world):
            command = [*network.command_prefix(rank), sys.executable, "-m", "benchmarks.scaling_worker"]
            worker = subprocess.Popen(
                ["env", f"GLOO_SOCKET_IFNAME={INTERFACE}", *command, json.dumps(asdict(setting)), str(rank)],
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            processes.callback(worker.kill)
            workers.append(worker)
        found = [worker.communicate(timeout=options.seconds)[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise Failure("a worker failed; what it printed is above")
    each = [json.loads(line)["layouts"] for line in found]
    return {
        name: {key: max(one[name][key] for one in each) for key in ("seconds", "bytes_sent")}
        for name in each[0]
    }


def show(result: dict[str, Any]) -> None:
    """Print the measurements, each beside torch's DDP."""
    for world, layouts in result["layouts"].items():
        shown = Table(title=f"{world} workers")
        for column in ("layout", "MB sent", "s a step", "fewer bytes", "faster"):
            shown.add_column(column, justify="left" if column == "layout" else "right")
        base = layouts["torch DDP"]
        for name, row in layouts.items():
            shown.add_row(
                name,
                f"{row['bytes_sent'] / 1e6:.1f}",
                f"{row['seconds']:.2f}",
                f"{base['bytes_sent'] / row['bytes_sent']:.2f}",
                f"{base['seconds'] / row['seconds']:.2f}",
            )
        Console(soft_wrap=True).print(shown)


def main() -> None:
    """Measure, print, and write the result."""
    options = tyro.cli(Scaling, prog="python -m benchmarks.scaling", args=arguments())
    with exit_codes():
        if options.table:
            print(table(Architecture("D", 1000, 224, 1.0), 256, Machine()))
            return
        layouts = {str(world): measure(options, world) for world in options.workers}
        result = {
            "options": {key: value for key, value in asdict(options).items() if key not in ("out", "table")},
            "machine": describe(torch.device("cpu")),
            "layouts": layouts,
        }
        show(result)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
