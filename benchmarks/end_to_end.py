"""Images/s of whole trainings, from shards to updates: `python -m benchmarks.end_to_end RECIPE --data FOLDER`.

trainings of one recipe that differ in one flag take turns, each a command of its own, untracked
    as it is; from one batch kept in memory, which is what a perfect loader would give; by either way of
    summing; with a look at every gradient (`--train.bad-numbers skip`)
medians over rounds, and of the ratios to the first within a round, as a table and as JSON
"""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.data import ROOT, write_result
from benchmarks.machine import describe
from cli.command import arguments, exit_codes
from cli.errors import Failure, UserError, require_known

VARIANTS: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "cached batch": ("--train.cached-batch",),
    "ddp": ("--layout.reduce=ddp",),
    "fixed-order": ("--layout.reduce=fixed-order",),
    "skip": ("--train.bad-numbers=skip",),
}
ERROR_CHARACTERS = 2000


@dataclass(frozen=True)
class EndToEnd:
    """Images/s and data wait of whole trainings."""

    recipe: tyro.conf.Positional[str]
    data: Path
    """Packed data set of the recipe."""
    variants: tuple[str, ...] = ("as it is", "cached batch")
    """Of "as it is", "cached batch", "ddp", "fixed-order" and "skip"; ratios are to the first."""
    steps: int = 60
    rounds: int = 3
    flags: str = ""
    """More flags of vgg.train, for all trainings: --flags="--layout.workers=2 --model.classes=10"."""
    out: Path = ROOT / "benchmarks" / "results" / "end_to_end.json"


def train(options: EndToEnd, variant: str) -> dict[str, float]:
    """Images/s and the share of data wait of one training, validations and checkpoints left out."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vgg.train", options.recipe, f"--data={options.data.absolute()}"]
        command += [
            f"--out={folder}/run",
            f"--train.steps={options.steps}",
            *VARIANTS[variant],
            *shlex.split(options.flags),
        ]
        env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            kind = UserError if done.returncode == 2 else Failure
            raise kind(f"{' '.join(command)}:\n{done.stderr[-ERROR_CHARACTERS:]}")
        found = json.loads(Path(folder, "run", "result.json").read_text())
    return {"images_per_s": found["images_per_s"], "data_wait_share": found["data_wait_share"]}


def summary(rounds: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Medians of each variant, its range, and its rate as a multiple of the first's in the same round."""
    rates = {name: [each["images_per_s"] for each in found] for name, found in rounds.items()}
    first = next(iter(rates.values()))
    return {
        name: {
            "images_per_s": median(own),
            "least": min(own),
            "most": max(own),
            "times_the_first": median(a / b for a, b in zip(own, first, strict=True)),
            "data_wait_share": median(each["data_wait_share"] for each in rounds[name]),
        }
        for name, own in rates.items()
    }


def table(found: dict[str, dict[str, float]]) -> Table:
    """The summary for the terminal."""
    shown = Table("", "images/s", "range", "x the first", "data wait")
    for name, row in found.items():
        spread = f"{row['least']:.1f}-{row['most']:.1f}"
        waits = f"{row['data_wait_share']:.1%}"
        shown.add_row(name, f"{row['images_per_s']:.1f}", spread, f"{row['times_the_first']:.2f}", waits)
    return shown


def main() -> None:
    """Measure, print, and write. Exit code 2 for a flag that cannot be, 1 where a training fails."""
    options = tyro.cli(EndToEnd, prog="python -m benchmarks.end_to_end", args=arguments())
    with exit_codes():
        require_known(options.variants, VARIANTS, "--variants")
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in options.variants}
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        settings = {**asdict(options), "data": options.data.name, "out": None}
        result: dict[str, Any] = {"machine": describe(device), "settings": settings}
        for _ in range(options.rounds):
            for name in rounds:
                rounds[name].append(train(options, name))
            result["trainings"] = summary(rounds)
            write_result(result, options.out)  # after each: a run that is cut off keeps what it has
        Console(soft_wrap=True).print(table(result["trainings"]))


if __name__ == "__main__":
    main()
