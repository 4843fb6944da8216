"""Compares the input pipeline with other loaders: `python -m benchmarks.data` (or `make bench-data`).

    pack the photographs with restart markers and as they are
    in each round, in an order of its own, run each loader in a process pinned to its cores:
        warm up, then take as many batches as fit into --seconds
    medians over the rounds, ratios within each round and their range, as a table and as JSON

Other loaders are installed into a folder of their own (--peers), by the command in benchmarks/README.md.
"""

import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.loaders import LOADERS, PLAIN, SEGMENTED
from benchmarks.machine import describe
from cli.command import exit_codes
from cli.errors import UserError, require_known
from pipelines.pack import pack
from pipelines.packing.options import PackOptions

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = "ours"
MEASURE_PROGRAM = """
import json, os, sys
from pathlib import Path
name, folder, seconds, batch, *cores = sys.argv[1:]
os.sched_setaffinity(0, map(int, cores))
from benchmarks.data import measure
print(json.dumps(measure(name, Path(folder), float(seconds), int(batch))), flush=True)
os._exit(0)  # without joining the workers of an endless loader
"""


@dataclass(frozen=True)
class Data:
    """Images/s, CPU time and memory of input pipelines."""

    photographs: Path = ROOT.parent / "shared" / "data" / "imagenet-sample-250.tar"
    """Archive of full-size JPEG files."""
    peers: Path | None = None
    """Folder that the other loaders were installed to."""
    loaders: tuple[str, ...] = tuple(LOADERS)
    """Loaders to measure."""
    cores: tuple[int, ...] = (2,)
    """Numbers of cores to measure on."""
    rounds: int = 5
    """Measurements of each loader."""
    seconds: float = 6.0
    """Duration of each measurement."""
    batch: int = 128
    """Images per batch."""
    out: Path = ROOT / "benchmarks" / "results" / "data.json"


def prepare(photographs: Path, folder: Path, *, plain: bool = False) -> int:
    """Write the photographs below `folder` as files and packed, with `plain` as they are too; their number."""
    count = 0
    with tarfile.open(photographs) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isfile() else None
            if stream is None:
                continue
            data = stream.read()
            for split in ("train", "val") if count == 0 else ("train",):
                file = folder / "files" / split / "photographs" / f"{count:04d}.JPEG"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
            count += 1
    pack(PackOptions(str(folder / "files"), folder / SEGMENTED))
    if plain:
        pack(PackOptions(str(folder / "files"), folder / PLAIN, segments="off"))
    return count


def measure(name: str, folder: Path, seconds: float, batch: int) -> dict[str, float]:
    """Measure one loader on the cores of this process."""
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    batches = LOADERS[name](folder, batch, cores)
    for _ in range(3):
        next(batches)
    process = psutil.Process()
    started, before, images = time.perf_counter(), _cpu_seconds(process), 0
    while time.perf_counter() - started < seconds:
        images_BCHW = next(batches)
        assert name.startswith("limit") or images_BCHW.shape == (batch, 3, 224, 224), images_BCHW.shape
        images += batch
    took = time.perf_counter() - started
    return {
        "images_per_s": images / took,
        "cpu_ms_per_image": 1000 * (_cpu_seconds(process) - before) / images,
        "peak_mb": sum(_peak_mb(each) for each in (process, *process.children(recursive=True))),
    }


def _cpu_seconds(process: psutil.Process) -> float:
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def _peak_mb(process: psutil.Process) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def run_one(name: str, cores: int, folder: Path, options: Data) -> dict[str, float] | str:
    """Measure a loader in a process of its own; its figures, or the last line of its error."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    arguments = [name, str(folder), str(options.seconds), str(options.batch), *map(str, allowed)]
    path = os.pathsep.join(str(part) for part in (ROOT, options.peers) if part)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE_PROGRAM, *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(cores)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    return (done.stderr.strip() or "it ended without output").splitlines()[-1]


def compare(options: Data) -> dict[str, Any]:
    """Measure every loader on every number of cores."""
    found: dict[str, Any] = {
        "machine": describe(torch.device("cpu")),
        "load_average_before": os.getloadavg()[0],
        "settings": {"rounds": options.rounds, "seconds": options.seconds, "batch": options.batch},
        "results": [],
        "skipped": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        found["photographs"] = prepare(options.photographs, folder, plain=True)
        for cores in options.cores:
            found["results"] += summary(run_rounds(cores, folder, options, found["skipped"]), cores)
    return found


def run_rounds(
    cores: int, folder: Path, options: Data, skipped: dict[str, str]
) -> dict[str, list[dict[str, float]]]:
    """Measure the loaders in turn, round after round; a loader that fails is added to `skipped`."""
    console = Console(stderr=True)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in options.loaders}
    for number in range(options.rounds):
        for name in random.Random(number).sample(options.loaders, len(options.loaders)):
            if name in skipped:
                continue
            result = run_one(name, cores, folder, options)
            if isinstance(result, str):
                skipped[name] = result
                console.print(f"skipped {name}: {result}", markup=False)
                continue
            rounds[name].append(result)
            rate = result["images_per_s"]
            console.print(f"{cores} core(s), round {number + 1}: {name}: {rate:.0f} images/s", markup=False)
    return rounds


def summary(rounds: dict[str, list[dict[str, float]]], cores: int) -> list[dict[str, Any]]:
    """Median figures of each loader, and medians of its ratios to ours within each round.

    On a machine with other load, CPU time is more reliable than images/s.
    """
    rows = []
    for name, results in rounds.items():
        if not results:
            continue
        row: dict[str, Any] = {"loader": name, "cores": cores}
        for figure in results[0]:
            row[figure] = median(result[figure] for result in results)
        row["images_per_s_rounds"] = [result["images_per_s"] for result in results]
        pairs = list(zip(rounds.get(REFERENCE, []), results, strict=False))
        faster = [ours["images_per_s"] / theirs["images_per_s"] for ours, theirs in pairs]
        dearer = [theirs["cpu_ms_per_image"] / ours["cpu_ms_per_image"] for ours, theirs in pairs]
        for name_of_ratio, ratios in (("ours_is_times_as_fast", faster), ("takes_times_our_cpu", dearer)):
            row[name_of_ratio] = median(ratios) if pairs else None
            row[f"{name_of_ratio}_range"] = [min(ratios), max(ratios)] if pairs else None
        rows.append(row)
    return rows


def table(found: dict[str, Any]) -> Table:
    """The results for the terminal."""
    shown = Table("cores", "loader", "images/s", "ours is", "(range)", "CPU ms an image", "of ours", "peak MB")
    for row in found["results"]:
        faster, dearer = row["ours_is_times_as_fast"], row["takes_times_our_cpu"]
        between = row["ours_is_times_as_fast_range"]
        shown.add_row(
            str(row["cores"]),
            row["loader"],
            f"{row['images_per_s']:,.0f}",
            f"{faster:.2f} ×" if faster else "",
            f"{between[0]:.2f} to {between[1]:.2f}" if between else "",
            f"{row['cpu_ms_per_image']:.2f}",
            f"{dearer:.2f} ×" if dearer else "",
            f"{row['peak_mb']:,.0f}",
        )
    return shown


def require_photographs(archive: Path) -> None:
    """UserError where the archive does not exist."""
    if not archive.is_file():
        raise UserError(f"no photographs at {archive}: pass --photographs")


def write_result(result: dict[str, Any], out: Path) -> None:
    """Write a benchmark's result as indented JSON."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    """Measure and write. Exit code 2 where the photographs or a loader do not exist."""
    options = tyro.cli(Data, prog="python -m benchmarks.data")
    with exit_codes():
        require_photographs(options.photographs)
        require_known(options.loaders, LOADERS, "--loaders")
        found = compare(options)
        write_result(found, options.out)
        console = Console(soft_wrap=True)
        console.print(table(found))
        console.print(f"written to {options.out}", markup=False)


if __name__ == "__main__":
    main()
