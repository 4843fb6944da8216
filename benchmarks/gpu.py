"""Numerics and throughput of the nets on a GPU: `benchmarks/gpu.sh`.

Imports the net and the step and nothing else of the project, so that a machine without Ray, DALI and MLflow
runs it. The JSON is written after every section: a run that is cut keeps what it had.

Shapes: B images, C = 3, S the crop's side in pixels, K classes.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from vgg.initialise import initialise
from vgg.model import CONFIGURATIONS, VGG, Architecture, load_torchvision, to_torchvision, training_flops
from vgg.recipe import Optim
from vgg.step import dropout_masks, make_optimizer, train_step

NUMERICS_BATCH = 4
MODES = ("eager contiguous", "eager channels_last", "compiled channels_last")
TORCHVISION = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}


class Report:
    """The JSON that is left behind, and what is left of the time."""

    def __init__(self, file: Path, seconds: float) -> None:
        self._file, self._deadline = file, time.monotonic() + seconds
        self.found: dict[str, Any] = {"format": 1, "skipped": []}

    def put(self, section: str, key: str, value: Any) -> None:
        """Keep a figure and write the file."""
        self.found.setdefault(section, {})[key] = value
        self.write()
        print(f"{section}: {key}: {json.dumps(value)}", flush=True)

    def skip(self, what: str, why: str) -> None:
        """Say that something was not measured."""
        self.found["skipped"].append({"what": what, "why": why})
        self.write()
        print(f"skipped {what}: {why}", flush=True)

    def in_time(self, what: str) -> bool:
        """Whether there is time left; otherwise `what` is noted as skipped."""
        if time.monotonic() < self._deadline:
            return True
        self.skip(what, "the time given with --seconds is used up")
        return False

    def write(self) -> None:
        """The file as it stands."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(self.found, indent=1) + "\n")
        partial.replace(self._file)


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures hold for."""
    about: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cpus": os.cpu_count(),
        "device": device.type,
        "fp32 convolutions and matrices": "IEEE (TF32 off)",
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        about["gpu"] = properties.name
        about["gpu_memory_gib"] = round(properties.total_memory / 2**30, 1)
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
        try:
            about["driver, clock, power"] = subprocess.run(
                query, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError) as error:
            about["driver, clock, power"] = f"unknown: {error}"
    return about


def ceilings(report: Report, device: torch.device, small: bool) -> None:
    """Matrix rate and copy bandwidth, in the same run as what is compared with them."""
    n = 512 if small else 8192
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    seconds = median_seconds(lambda: a @ a, device, repeats=10)
    report.put("ceilings", "bf16_matrix_tflop_per_s", 2 * n**3 / seconds / 1e12)
    source = torch.empty(2**24 if small else 2**31, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source), device, repeats=10)
    report.put("ceilings", "copy_gb_per_s", 2 * source.numel() / seconds / 1e9)  # read and written


def numerics(report: Report, name: str, device: torch.device, side: int, width: float) -> None:
    """Scores and gradients against the CPU in fp32, and torchvision's net with the same weights."""
    architecture = Architecture(name, 1000, side, width)
    net = VGG(architecture)
    initialise(net, "glorot", 0)
    generator = torch.Generator().manual_seed(1)
    images_BCSS = 50 * torch.randn(NUMERICS_BATCH, 3, side, side, generator=generator)
    labels_B = torch.arange(NUMERICS_BATCH)
    masks = dropout_masks(
        0, 0, range(NUMERICS_BATCH), net.hidden, 0.5, device=torch.device("cpu"), dtype=torch.float32
    )

    def scores_and_gradients(where: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        moved = net.to(where).to(memory_format=torch.channels_last)
        moved.zero_grad()
        with torch.autocast(where.type, dtype, enabled=dtype != torch.float32):
            scores_BK = moved(images_BCSS.to(where), [m.to(where) for m in masks]).flatten(1)
        F.cross_entropy(scores_BK.float(), labels_B.to(where)).backward()
        gradient = torch.cat([p.grad.flatten().cpu() for p in moved.parameters() if p.grad is not None])
        return scores_BK.detach().float().cpu(), gradient

    reference = scores_and_gradients(torch.device("cpu"), torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        found = scores_and_gradients(device, dtype)
        report.put(
            "numerics",
            f"{name} {str(dtype).removeprefix('torch.')} against CPU float32",
            {
                "scores_relative": relative(found[0], reference[0]),
                "gradients_relative": relative(found[1], reference[1]),
            },
        )
    if name in TORCHVISION and width == 1 and side == 224:
        against_torchvision(report, name, net, images_BCSS, device)


def against_torchvision(
    report: Report, name: str, net: VGG, images_BCSS: torch.Tensor, device: torch.device
) -> None:
    """The largest difference of scores, relative to the largest score."""
    try:
        import torchvision
    except ImportError as error:
        report.skip(f"{name} against torchvision", str(error))
        return
    theirs = torchvision.models.get_model(TORCHVISION[name], weights=None, init_weights=False)
    theirs.load_state_dict(to_torchvision(net))
    theirs = theirs.to(device).eval()
    ours = VGG(net.architecture)
    load_torchvision(ours, {key: value.cpu() for key, value in theirs.state_dict().items()})
    with torch.no_grad():
        wanted_BK = theirs(images_BCSS.to(device))
        found_BK = ours.to(device)(images_BCSS.to(device)).flatten(1)
    report.put("numerics", f"{name} against torchvision", relative(found_BK, wanted_BK))


def throughput(
    report: Report, name: str, mode: str, device: torch.device, side: int, batch: int, width: float
) -> None:
    """Images a second of whole training steps, and the peak of memory."""
    architecture = Architecture(name, 1000, side, width)
    net = VGG(architecture)
    initialise(net, "glorot", 0)
    last = torch.channels_last if "channels_last" in mode else torch.contiguous_format
    net = net.to(device).to(memory_format=last)
    optimizer = make_optimizer(net, Optim())
    forward: torch.nn.Module = net
    if mode.startswith("compiled"):
        forward = torch.compile(net)  # type: ignore[assignment]  # a module again
    images_BCSS = torch.randn(batch, 3, side, side, device=device).to(memory_format=last)
    labels_B = torch.randint(0, 1000, (batch,), device=device)
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    step = 0

    def once() -> None:
        nonlocal step
        masks = dropout_masks(0, step, range(batch), net.hidden, 0.5, device=device, dtype=torch.bfloat16)
        train_step(
            forward,
            optimizer,
            images_BCSS,
            labels_B,
            masks,
            batch=batch,
            micro_batch=batch,
            lr=1e-4,
            dtype=torch.bfloat16,
            scaler=scaler,
        )
        step += 1

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    # The host must run ahead as it does in training, so several steps are timed together.
    steps = 10 if device.type == "cuda" else 1

    def several() -> None:
        for _ in range(steps):
            once()

    seconds = median_seconds(several, device, repeats=5) / steps
    images_per_s = batch / seconds
    tflop_per_s = images_per_s * training_flops(architecture) / 1e12
    rate = report.found["ceilings"]["bf16_matrix_tflop_per_s"]
    figures = {
        "images_per_s": images_per_s,
        "ms_per_step": 1000 * seconds,
        "tflop_per_s": tflop_per_s,
        "share_of_measured_matrix_rate": tflop_per_s / rate,
    }
    if device.type == "cuda":
        figures["peak_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    report.put("throughput", f"{name} {mode}", figures)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference over largest magnitude."""
    return float((found.cpu().double() - wanted.cpu().double()).abs().max() / wanted.abs().max().cpu())


def median_seconds(work: Callable[[], object], device: torch.device, *, repeats: int) -> float:
    """Median duration after two runs that are not counted."""

    def timed() -> float:
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        return time.perf_counter() - started

    timed()
    timed()
    return statistics.median(timed() for _ in range(repeats))


def wait(device: torch.device) -> None:
    """Until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure. Exit code 2 where there is no GPU and none was waived."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--configurations", nargs="+", default=list(CONFIGURATIONS), metavar="NAME")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--seconds", type=float, default=500.0, help="start nothing new after this long")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/gpu-NAME-DATE.json")
    options = parser.parse_args()
    if unknown := sorted(set(options.configurations) - set(CONFIGURATIONS)):
        parser.error(f"--configurations {unknown[0]}: known are {', '.join(CONFIGURATIONS)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: no GPU here; try the script with --device cpu --side 32 --batch 8 --width 0.125")
        sys.exit(2)
    device = torch.device(options.device)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    about = machine(device)
    label = str(about.get("gpu", "cpu")).lower().replace(" ", "-")
    out = options.out or Path("benchmarks/results") / f"gpu-{label}-{time.strftime('%Y-%m-%d')}.json"
    report = Report(out, options.seconds)
    settings = {"side": options.side, "batch": options.batch, "width": options.width}
    report.found |= {"machine": about, "settings": settings}
    ceilings(report, device, small=device.type == "cpu")
    for name in options.configurations:
        if report.in_time(f"numerics of {name}"):
            numerics(report, name, device, options.side, options.width)
    for mode in options.modes:
        for name in options.configurations:
            if report.in_time(f"throughput of {name}, {mode}"):
                throughput(report, name, mode, device, options.side, options.batch, options.width)
    print(f"written: {out}")


if __name__ == "__main__":
    main()
