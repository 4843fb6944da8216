"""Correctness, speed and memory of the six nets on one device, into one JSON file.

ceilings      matrix rate and copy bandwidth, as measured here and now
agreement     scores and gradients against the CPU, fp32 and bf16
training      images/s of the training's own step, eager and compiled
"""

import argparse
import importlib.util
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.agreement import agreement, no_torchvision, torchvision_agreement
from benchmarks.machine import describe
from benchmarks.roofline import ceilings
from benchmarks.speed import COMPILED, EAGER, EAGER_CONTIGUOUS, speed
from vgg.net.architecture import CONFIGURATIONS, Architecture

# D and A first: they are what a run that is cut short should hold.
ORDER = ("D", "A", "E", "B", "C", "A-LRN")


@dataclass
class Run:
    """The measurements so far, on disk after each."""

    path: Path
    options: argparse.Namespace
    device: torch.device
    result: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    longest: dict[str, float] = field(default_factory=dict)

    def save(self) -> None:
        """Write the file whole or not at all."""
        self.result["seconds"] = round(time.perf_counter() - self.started, 1)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.result, indent=1) + "\n")
        part.replace(self.path)

    def skip(self, what: str, why: str) -> None:
        """Say that something is not measured, and why."""
        print(f"skipped {what}: {why}", flush=True)
        self.result["skipped"].append({"what": what, "why": why})
        self.save()

    def measure(self, section: str, what: dict[str, str], guess: float, call: Callable[[], dict]) -> None:
        """Append `call()` to a section of the result, unless the time left is shorter than it takes.

        `guess` is what the first of its kind may take, in seconds; later, the longest so far.
        """
        name = " ".join([section, *what.values()])
        kind = section + what.get("mode", "")
        left = self.options.seconds - (time.perf_counter() - self.started)
        if left < self.longest.get(kind, guess):
            self.skip(name, f"{max(0, left):.0f} s left of {self.options.seconds}, it may take longer")
            return
        started = time.perf_counter()
        try:
            found = {**what, **call()}
        except torch.cuda.OutOfMemoryError:
            self.skip(name, f"out of GPU memory: try --micro-batch {self.options.micro_batch // 2}")
        except RuntimeError as error:
            # A broken kernel or compiler: the other measurements may still work.
            reason = f"{type(error).__name__}: {error}"
            print(f"FAILED {name}: {reason}", flush=True)
            self.result["failed"].append({"what": name, "why": reason})
        else:
            print(f"{name}: {_line(found)}", flush=True)
            self.result[section].append(found)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.longest[kind] = max(self.longest.get(kind, 0), time.perf_counter() - started)
        self.save()


def _line(found: dict[str, Any]) -> str:
    if "scores" in found:
        return f"{'agrees' if found['agrees'] else 'DIFFERS'}, scores off by {found['scores']:.1e}"
    if "agrees" in found:
        parts = [
            f"{precision} scores {found[precision]['scores']:.1e} gradients "
            f"{found[precision]['worst_gradient']:.1e} ({found[precision]['worst_gradient_of']})"
            for precision in ("fp32", "bf16")
        ]
        return ("agrees" if found["agrees"] else "DIFFERS") + ", off by " + ", ".join(parts)
    peak = found["peak_memory_bytes"]
    memory = "" if peak is None else f", {peak / 2**30:.1f} GiB"
    return (
        f"{found['images_per_s']:.1f} images/s, {100 * found['share_of_matrix_rate']:.1f} % of the matrix "
        f"rate, {100 * found['share_of_least_time']:.1f} % of the fused bound{memory}"
    )


def compiler_missing() -> str | None:
    """Why torch.compile cannot work here, if it cannot."""
    if torch.cuda.is_available() and importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not any(shutil.which(compiler) for compiler in ("cc", "gcc", "clang", "g++", "c++")):
        return "no C compiler found"
    return None


def run_all(run: Run) -> None:
    """Every section, the most telling first."""
    options = run.options
    chosen = [name for name in ORDER if name in options.configurations]
    nets = {name: Architecture(name, options.classes, options.side, options.width) for name in chosen}
    rows = min(2, options.batch)
    rates = run.result["ceilings"] = ceilings(run.device, options.round_seconds)
    print(
        f"ceilings: {rates['matrix_flop_per_s'] / 1e12:.2f} TFLOP/s in bf16, "
        f"{rates['copy_bytes_per_s'] / 1e9:.1f} GB/s",
        flush=True,
    )
    run.save()
    for name, net in nets.items():
        run.measure(
            "agreement",
            {"configuration": name},
            20,
            lambda net=net: agreement(net, rows, run.device),  # type: ignore[misc]
        )
    for name, net in nets.items():
        if why := no_torchvision(net):
            run.skip(f"torchvision {name}", why)
            continue
        run.measure(
            "torchvision",
            {"configuration": name},
            15,
            lambda net=net: torchvision_agreement(net, rows, run.device),  # type: ignore[misc]
        )
    missing = compiler_missing()
    # Seconds that the first net of a mode may take; compiled ones come last, as they take longest.
    for modes, guess in (((EAGER, EAGER_CONTIGUOUS), 20), ((COMPILED,), 60)):
        for name, net in nets.items():
            for mode in modes:
                if mode not in options.modes:
                    run.skip(f"training {name} {mode}", "not among --modes")
                elif mode == COMPILED and missing:
                    run.skip(f"training {name} {mode}", missing)
                else:
                    run.measure(
                        "training",
                        {"configuration": name, "mode": mode},
                        guess,
                        lambda net=net, mode=mode: speed(  # type: ignore[misc]
                            net,
                            mode,
                            run.result["ceilings"],
                            device=run.device,
                            batch=options.batch,
                            micro_batch=options.micro_batch,
                            seconds=options.round_seconds,
                        ),
                    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Options; exits with code 2 and a message where they cannot work."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--configurations", nargs="+", default=list(CONFIGURATIONS), choices=CONFIGURATIONS)
    modes = (EAGER_CONTIGUOUS, EAGER, COMPILED)
    parser.add_argument("--modes", nargs="+", default=list(modes), choices=modes)
    parser.add_argument("--side", type=int, default=224, help="crop side in pixels (default 224)")
    parser.add_argument("--batch", type=int, default=256, help="images a step (default 256)")
    parser.add_argument("--micro-batch", type=int, help="images at a time (default: the batch)")
    parser.add_argument("--width", type=float, default=1.0, help="factor on every layer's width")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=480, help="for the whole run (default 480)")
    parser.add_argument("--round-seconds", type=float, default=3.0, help="for each timing (default 3)")
    parser.add_argument("--out", type=Path, help="result file (default: a new one in benchmarks/results)")
    options = parser.parse_args(arguments)
    for name in ("batch", "seconds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if options.round_seconds <= 0:
        parser.error("--round-seconds must be positive")
    options.micro_batch = options.micro_batch or options.batch
    if not 1 <= options.micro_batch <= options.batch:
        parser.error(f"--micro-batch must lie between 1 and --batch {options.batch}")
    try:
        Architecture("D", options.classes, options.side, options.width)
    except ValueError as error:
        parser.error(str(error).replace("--model.", "--"))
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error(
            f"torch {torch.__version__} sees no CUDA GPU here. A trial without one: "
            "benchmarks/gpu.sh --device cpu --side 32 --batch 8 --width 0.125"
        )
    return options


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 all is well, 1 something failed or differs, 2 the options cannot work."""
    options = parse(arguments)
    device = torch.device(options.device)
    now = datetime.now(UTC)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    name = f"{gpu.lower().replace(' ', '-')}-{now:%Y%m%dT%H%M%SZ}.json"
    path = options.out or Path(__file__).parent / "results" / name
    # A kernel or a compilation that never ends: the file keeps what was measured before it.
    signal.alarm(options.seconds + 60)
    # Float32 means float32: in the agreement section TF32 would hide differences of 1e-3.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    run = Run(path, options, device)
    run.result.update(
        format=1,
        started=now.isoformat(timespec="seconds"),
        options={key: value for key, value in vars(options).items() if key != "out"},
        settings={
            "training_precision": "bf16 autocast, float32 weights",
            "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
            "cudnn_tf32": torch.backends.cudnn.allow_tf32,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "images": "noise, on the device; decoding is not part of it",
        },
        machine=describe(device),
        ceilings=None,
        agreement=[],
        torchvision=[],
        training=[],
        skipped=[],
        failed=[],
        finished=False,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        run.save()
    except OSError as error:
        print(f"gpu.sh: --out {path} cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    run_all(run)
    run.result["finished"] = True
    run.save()
    compared = [*run.result["agreement"], *run.result["torchvision"]]
    differing = [found["configuration"] for found in compared if not found["agrees"]]
    print(f"{path}: {len(run.result['skipped'])} skipped, {len(run.result['failed'])} failed")
    if differing:
        print(f"differ from the CPU or torchvision: {', '.join(differing)}")
    return 1 if differing or run.result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
