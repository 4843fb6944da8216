"""The input pipeline where a GPU is at hand: `python -m benchmarks.gpu_data`.

For each placement of the one definition (all on the CPU; regions decoded there and resized on the GPU; decoded
on the GPU too): how far its pixels are from the CPU's, images/s, CPU time of an image, and how busy the GPU's
decoder and multiprocessors are meanwhile. On a machine without a GPU only the CPU's own figures are measured.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console

from benchmarks.data import ROOT, prepare
from benchmarks.loaders import LEAST, MOST, SIDE
from benchmarks.machine import describe
from pipelines.loading.batch import Batch, to_input
from pipelines.loading.dali_graphs import Placement
from pipelines.loading.draw import Augment
from pipelines.loading.loaders import TrainLoader
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards

PLACEMENTS: tuple[Placement, ...] = ("cpu", "regions", "gpu")
COMPARED = 4  # batches whose pixels are compared
SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class GpuData:
    """Numerics and speed of the pipeline's placements."""

    photographs: Path = ROOT.parent / "shared" / "data" / "imagenet-sample-250.tar"
    """Archive of full-size JPEG files."""
    threads: int = 16
    """CPU threads of the loader."""
    batch: int = 256
    seconds: float = 15.0
    """Of each measurement of speed."""
    out: Path = ROOT / "benchmarks" / "results" / "gpu-data.json"


def loader(
    folder: Path, placement: Placement, device: torch.device, options: GpuData, steps: int
) -> TrainLoader:
    """Our pipeline, the same draws in every placement."""
    manifest = read_manifest(folder / "packed")
    return TrainLoader(
        Shards(folder / "packed", manifest, "train"),
        manifest,
        Augment(SIDE, LEAST, MOST),
        seed=0,
        batch=options.batch,
        rows=range(options.batch),
        first_step=0,
        steps=steps,
        device=device,
        threads=options.threads,
        placement=placement,
    )


def crops(batches: TrainLoader) -> Iterator[Batch]:
    """Batches of a loader that is closed at the end."""
    with batches:
        yield from batches


def difference(folder: Path, placement: Placement, device: torch.device, options: GpuData) -> dict[str, Any]:
    """How far the pixels (0 to 255) and the order are from those of the CPU."""
    on_cpu = crops(loader(folder, "cpu", torch.device("cpu"), options, COMPARED))
    there = crops(loader(folder, placement, device, options, COMPARED))
    apart, same_order = [], True
    for ours, theirs in zip(on_cpu, there, strict=True):
        apart.append(np.abs(ours.images_BHWC.numpy().astype(int) - theirs.images_BHWC.cpu().numpy()).ravel())
        same_order &= bool((ours.images_B == theirs.images_B).all())
    apart_N = np.concatenate(apart)
    return {
        "pixels": len(apart_N),
        "same_order": same_order,
        "mean": float(apart_N.mean()),
        "p99.9": float(np.quantile(apart_N, 0.999)),
        "most": int(apart_N.max()),
        "share_off_by_more_than_1": float((apart_N > 1).mean()),
    }


def speed(folder: Path, placement: Placement, device: torch.device, options: GpuData) -> dict[str, Any]:
    """Images/s up to what the net sees on the device."""
    images, inputs, watch = 0, None, Utilisation(device)
    with loader(folder, placement, device, options, 10**6) as batches:
        for _ in range(5):
            inputs = to_input(next(batches), inputs)
        _wait(device)
        with watch:
            started, before = time.perf_counter(), time.process_time()
            while time.perf_counter() - started < options.seconds:
                inputs = to_input(next(batches), inputs)
                images += options.batch
            _wait(device)
            took, cpu = time.perf_counter() - started, time.process_time() - before
    return {"images_per_s": images / took, "cpu_ms_per_image": 1000 * cpu / images, **watch.shares()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Utilisation:
    """Mean utilisation of a GPU's decoders and multiprocessors, in percent, by NVML; a context manager."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._over = device, Event()
        self._seen: dict[str, list[int]] = {"gpu_percent": [], "jpeg_percent": [], "decoder_percent": []}

    def __enter__(self) -> "Utilisation":
        self._thread = Thread(target=self._watch, daemon=True)
        if self._device.type == "cuda":
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _watch(self) -> None:
        import pynvml

        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(self._device).uuid)
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
        queries = {
            "gpu_percent": lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
            "jpeg_percent": lambda: pynvml.nvmlDeviceGetJpgUtilization(handle)[0],
            "decoder_percent": lambda: pynvml.nvmlDeviceGetDecoderUtilization(handle)[0],
        }
        while not self._over.wait(SAMPLE_SECONDS):
            for name, query in queries.items():
                with suppress(pynvml.NVMLError):  # a GPU without a JPEG engine
                    self._seen[name].append(query())

    def shares(self) -> dict[str, float | None]:
        """Means; None for what the GPU does not tell."""
        return {name: float(np.mean(seen)) if seen else None for name, seen in self._seen.items()}


def main() -> None:
    """Exit code 2 where the photographs are not there."""
    options, console = tyro.cli(GpuData, prog="python -m benchmarks.gpu_data"), Console(soft_wrap=True)
    if not options.photographs.is_file():
        console.print(f"error: no photographs at {options.photographs}: pass --photographs", style="red")
        sys.exit(2)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        console.print("no GPU: only the CPU placement is measured")
    found: dict[str, Any] = {"machine": describe(device), "threads": options.threads, "placements": {}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(options.photographs, folder)
        for placement in PLACEMENTS if device.type == "cuda" else ("cpu",):
            found["placements"][placement] = {
                "against_cpu": difference(folder, placement, device, options),
                "speed": speed(folder, placement, device, options),
            }
            console.print(placement, found["placements"][placement])
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"written to {options.out}", markup=False)


if __name__ == "__main__":
    main()
