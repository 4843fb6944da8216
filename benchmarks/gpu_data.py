"""The input pipeline on a machine with a GPU: `python -m benchmarks.gpu_data`.

For each placement (all on the CPU; regions decoded there and resized on the GPU; both on the GPU): difference
of its pixels from the CPU's, images/s, CPU time per image, utilisation of the GPU and its decoders.
Without a GPU only the CPU placement is measured.
"""

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

from benchmarks.data import ROOT, prepare, require_photographs, write_result
from benchmarks.loaders import LEAST, MOST, SIDE
from benchmarks.machine import describe
from cli.command import exit_codes
from pipelines.loading.batch import Batch, to_input
from pipelines.loading.dali_graphs import Placement
from pipelines.loading.draw import Augment
from pipelines.loading.loaders import TrainLoader
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards

PLACEMENTS: tuple[Placement, ...] = ("cpu", "regions", "gpu")
COMPARED_BATCHES = 4
SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class GpuData:
    """Numerics and speed of the pipeline's placements."""

    photographs: Path = ROOT.parent / "shared" / "data" / "imagenet-sample-250.tar"
    """Archive of full-size JPEG files."""
    threads: int = 16
    """CPU threads of the loader."""
    batch: int = 256
    """Images per batch."""
    seconds: float = 15.0
    """Duration of each speed measurement."""
    out: Path = ROOT / "benchmarks" / "results" / "gpu-data.json"


def loader(
    folder: Path, placement: Placement, device: torch.device, options: GpuData, steps: int
) -> TrainLoader:
    """Our pipeline, with the same draws in every placement."""
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
    """The batches of a loader, which is closed at the end."""
    with batches:
        yield from batches


def difference(folder: Path, placement: Placement, device: torch.device, options: GpuData) -> dict[str, Any]:
    """Difference of the pixels (0 to 255) and of the order from those of the CPU placement."""
    on_cpu = crops(loader(folder, "cpu", torch.device("cpu"), options, COMPARED_BATCHES))
    there = crops(loader(folder, placement, device, options, COMPARED_BATCHES))
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
    """Images/s from shards to the net's input on the device."""
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
    return {"images_per_s": images / took, "cpu_ms_per_image": 1000 * cpu / images, **watch.means()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Utilisation:
    """Mean utilisation of a GPU's decoders and multiprocessors, in percent, by NVML; a context manager."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stop = device, Event()
        self._samples: dict[str, list[int]] = {"gpu_percent": [], "jpeg_percent": [], "decoder_percent": []}

    def __enter__(self) -> "Utilisation":
        self._thread = Thread(target=self._watch, daemon=True)
        if self._device.type == "cuda":
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
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
        while not self._stop.wait(SAMPLE_SECONDS):
            for name, query in queries.items():
                with suppress(pynvml.NVMLError):  # a GPU without a JPEG engine
                    self._samples[name].append(query())

    def means(self) -> dict[str, float | None]:
        """Means in percent; None for what the GPU does not report."""
        return {name: float(np.mean(samples)) if samples else None for name, samples in self._samples.items()}


def main() -> None:
    """Measure and write. Exit code 2 where the photographs do not exist."""
    options, console = tyro.cli(GpuData, prog="python -m benchmarks.gpu_data"), Console(soft_wrap=True)
    with exit_codes():
        require_photographs(options.photographs)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cpu":
            console.print("no GPU: only the CPU placement is measured")
        measure(options, device, console)
        console.print(f"written to {options.out}", markup=False)


def measure(options: GpuData, device: torch.device, console: Console) -> None:
    """Measure each placement that the device allows; the result is written after each."""
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
            write_result(found, options.out)


if __name__ == "__main__":
    main()
