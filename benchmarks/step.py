"""Images/s of one SGD update beside torchvision's net as it comes: `python -m benchmarks.step`.

for each configuration: torchvision's vgg in fp32 as it comes; our step in fp32, bf16, and compiled
they take turns, in an order of each round's own; medians of the ratios within a round, as a table and as JSON
"""

import os
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import torch.nn.functional as F
import torchvision
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.agreement import inputs
from benchmarks.data import write_result
from benchmarks.machine import describe
from benchmarks.roofline import matrix_rate, seconds_per_call
from benchmarks.speed import COMPILED, EAGER, LEARNING_RATE, Update
from cli.command import arguments, exit_codes
from cli.errors import require_known
from vgg.net.architecture import CONFIGURATIONS, Architecture, training_flops

ROOT = Path(__file__).resolve().parent.parent
PEERS = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}
PEER = "torchvision"
OURS = {
    "ours, fp32": (EAGER, torch.float32),
    "ours, bf16": (EAGER, torch.bfloat16),
    "ours, bf16 compiled": (COMPILED, torch.bfloat16),
}


@dataclass(frozen=True)
class Step:
    """Images/s of a training step."""

    configurations: tuple[str, ...] = ("D", "A", "B", "E", "C")
    side: int = 224
    batch: int = 16
    """Images of an update; 256 fit a large GPU."""
    width: float = 1.0
    """Factor on channels and units. Other than 1, torchvision's net stays away."""
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    rounds: int = 5
    seconds: float = 1.0
    """Of each net in each round, at least one update."""
    compiled: bool = False
    """Measure the compiled step too; on a CPU it needs a C++ compiler, and minutes."""
    out: Path = ROOT / "benchmarks" / "results" / "step.json"


class TorchvisionUpdate:
    """One update of torchvision's net as it comes: fp32, contiguous, its own dropout, SGD with momentum."""

    def __init__(self, architecture: Architecture, *, device: torch.device, batch: int) -> None:
        name = PEERS[architecture.configuration]
        self._net = torchvision.models.get_model(name, weights=None, num_classes=architecture.classes)
        self._net.to(device).train()
        self._optimizer = torch.optim.SGD(
            self._net.parameters(), LEARNING_RATE, momentum=0.9, weight_decay=5e-4
        )
        self._images_BCHW, self._labels_B = inputs(architecture, batch, device)

    def __call__(self) -> None:
        """Update."""
        self._optimizer.zero_grad()
        F.cross_entropy(self._net(self._images_BCHW), self._labels_B).backward()
        self._optimizer.step()


def measure(architecture: Architecture, options: Step) -> dict[str, list[float]]:
    """Images/s of each net in each round."""
    device, batch = torch.device(options.device), options.batch
    updates: dict[str, Callable[[], None]] = {}
    if architecture.configuration in PEERS and architecture.width == 1 and architecture.side == 224:
        updates[PEER] = TorchvisionUpdate(architecture, device=device, batch=batch)
    for name, (mode, dtype) in OURS.items():
        if mode != COMPILED or options.compiled:
            updates[name] = Update(
                architecture, mode, device=device, batch=batch, micro_batch=batch, dtype=dtype
            )
    for update in updates.values():
        update()
    found: dict[str, list[float]] = {name: [] for name in updates}
    for turn in range(options.rounds):
        for name in random.Random(turn).sample(list(updates), len(updates)):
            (seconds,) = seconds_per_call(updates[name], device, seconds=options.seconds, rounds=1)
            found[name].append(batch / seconds)
    return found


def summary(
    images_per_s: dict[str, list[float]], flop_per_image: float, flop_per_s: dict[torch.dtype, float]
) -> dict[str, Any]:
    """Of each net: the median rate, its range, its share of its type's matrix rate, and its ratio to
    torchvision's."""
    peer = images_per_s.get(PEER)
    return {
        name: {
            "images_per_s": median(rates),
            "least": min(rates),
            "most": max(rates),
            "share_of_matrix_rate": median(rates) * flop_per_image / flop_per_s[_dtype(name)],
            "times_torchvision": median(a / b for a, b in zip(rates, peer, strict=True)) if peer else None,
        }
        for name, rates in images_per_s.items()
    }


def _dtype(name: str) -> torch.dtype:
    return OURS[name][1] if name in OURS else torch.float32


def table(results: dict[str, dict[str, Any]]) -> Table:
    """The results for the terminal."""
    shown = Table("", "", "images/s", "range", "of its type's matrix rate", "x torchvision")
    for configuration, nets in results.items():
        for name, row in nets.items():
            shown.add_row(
                configuration,
                name,
                f"{row['images_per_s']:.2f}",
                f"{row['least']:.2f}-{row['most']:.2f}",
                f"{row['share_of_matrix_rate']:.0%}",
                "" if row["times_torchvision"] is None else f"{row['times_torchvision']:.2f}",
            )
    return shown


def main() -> None:
    """Measure, print, and write. Exit code 2 for a flag that cannot be."""
    options = tyro.cli(Step, prog="python -m benchmarks.step", args=arguments())
    with exit_codes():
        require_known(options.configurations, CONFIGURATIONS, "--configurations")
        device = torch.device(options.device)
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        side = 8192 if device.type == "cuda" else 2048
        rates = {
            dtype: matrix_rate(device, side, options.seconds, dtype)
            for dtype in (torch.float32, torch.bfloat16)
        }
        settings = {key: value for key, value in asdict(options).items() if key != "out"}
        nets: dict[str, dict[str, Any]] = {}
        written = {
            "machine": describe(device),
            "settings": settings,
            "matrix_flop_per_s": {str(dtype): rate for dtype, rate in rates.items()},
            "nets": nets,
        }
        for name in options.configurations:
            architecture = Architecture(name, 1000, options.side, options.width)
            nets[name] = summary(measure(architecture, options), training_flops(architecture), rates)
            write_result(written, options.out)  # after each: a run that is cut off keeps what it has
            Console(soft_wrap=True).print(table({name: nets[name]}))


if __name__ == "__main__":
    main()
