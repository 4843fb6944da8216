"""Correctness, speed and memory of the six nets on one device, into one JSON file.

ceilings      matrix rate and copy bandwidth of the device
agreement     scores and gradients against the CPU, fp32 and bf16
torchvision   scores against torchvision's nets
layouts       cost of the fixed order, the host's time for a step, the same bits twice
training      images/s of the training's own step, eager and compiled
"""

import argparse
import importlib.util
import shutil
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.agreement import agreement, no_torchvision, torchvision_agreement
from benchmarks.layouts import layouts
from benchmarks.machine import describe
from benchmarks.recorder import SECTIONS, Recorder
from benchmarks.roofline import ceilings
from benchmarks.speed import COMPILED, EAGER, EAGER_CONTIGUOUS, speed
from cluster.parallel.tree_sum import LEAVES
from vgg.net.architecture import CONFIGURATIONS, Architecture

# D and A first, for a run that is cut short.
ORDER = ("D", "A", "E", "B", "C", "A-LRN")
AGREEMENT_IMAGES = 2
HANG_SECONDS = 60  # past --seconds

Nets = dict[str, Architecture]


def compiler_missing() -> str | None:
    """Why torch.compile cannot work here, if it cannot."""
    if torch.cuda.is_available() and importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not any(shutil.which(compiler) for compiler in ("cc", "gcc", "clang", "g++", "c++")):
        return "no C compiler found"
    return None


def measure_all(recorder: Recorder, options: argparse.Namespace) -> None:
    """All sections, the most informative first."""
    nets = {
        name: Architecture(name, options.classes, options.side, options.width)
        for name in ORDER
        if name in options.configurations
    }
    measure_ceilings(recorder, options.round_seconds)
    measure_agreement(recorder, nets, min(AGREEMENT_IMAGES, options.batch))
    measure_layouts(recorder, nets, options)
    measure_training(recorder, nets, options)


def measure_ceilings(recorder: Recorder, seconds: float) -> None:
    """The device's rates, against which speeds are reported."""
    rates = recorder.result["ceilings"] = ceilings(recorder.device, seconds)
    print(
        f"ceilings: {rates['matrix_flop_per_s'] / 1e12:.2f} TFLOP/s in bf16, "
        f"{rates['copy_bytes_per_s'] / 1e9:.1f} GB/s",
        flush=True,
    )
    recorder.save()


def measure_agreement(recorder: Recorder, nets: Nets, batch: int) -> None:
    """Numerics against the CPU, then against torchvision where it has the net."""
    for name, net in nets.items():
        call = partial(agreement, net, batch, recorder.device)
        recorder.measure("agreement", {"configuration": name}, 20, call)
    for name, net in nets.items():
        if reason := no_torchvision(net):
            recorder.skip(f"torchvision {name}", reason)
            continue
        call = partial(torchvision_agreement, net, batch, recorder.device)
        recorder.measure("torchvision", {"configuration": name}, 15, call)


def measure_layouts(recorder: Recorder, nets: Nets, options: argparse.Namespace) -> None:
    """Of the first net: it is the ways of summing that differ."""
    for name, net in list(nets.items())[:1]:
        if options.batch < LEAVES:
            recorder.skip(f"layouts {name}", f"the fixed order needs a batch of at least {LEAVES}")
            continue
        timing = {"device": recorder.device, "batch": options.batch, "seconds": options.round_seconds}
        recorder.measure("layouts", {"configuration": name}, 30, partial(layouts, net, **timing))


def measure_training(recorder: Recorder, nets: Nets, options: argparse.Namespace) -> None:
    """Speed in each mode; compiled ones come last, as they take longest."""
    compiler_reason = compiler_missing()
    for modes, expected_seconds in (((EAGER, EAGER_CONTIGUOUS), 20), ((COMPILED,), 60)):
        for name, net in nets.items():
            for mode in modes:
                if mode not in options.modes:
                    recorder.skip(f"training {name} {mode}", "not among --modes")
                    continue
                if mode == COMPILED and compiler_reason:
                    recorder.skip(f"training {name} {mode}", compiler_reason)
                    continue
                call = partial(
                    speed,
                    net,
                    mode,
                    recorder.result["ceilings"],
                    device=recorder.device,
                    batch=options.batch,
                    micro_batch=options.micro_batch,
                    seconds=options.round_seconds,
                )
                labels = {"configuration": name, "mode": mode}
                recorder.measure("training", labels, expected_seconds, call)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Options; exits with code 2 and a message where they are invalid."""
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


def configure_arithmetic() -> None:
    """Make float32 mean float32: in the agreement section TF32 would hide differences of 1e-3."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


def empty_result(options: argparse.Namespace, device: torch.device, started: datetime) -> dict[str, Any]:
    """The result before the first measurement."""
    return {
        "format": 1,
        "started": started.isoformat(timespec="seconds"),
        "options": {key: value for key, value in vars(options).items() if key != "out"},
        "settings": {
            "training_precision": "bf16 autocast, float32 weights",
            "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
            "cudnn_tf32": torch.backends.cudnn.allow_tf32,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "images": "noise, on the device; decoding is not part of it",
        },
        "machine": describe(device),
        "ceilings": None,
        **{section: [] for section in SECTIONS},
        "skipped": [],
        "failed": [],
        "finished": False,
    }


def default_path(device: torch.device, started: datetime) -> Path:
    """A new file of benchmarks/results, named after the device and the time."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    file = f"{name.lower().replace(' ', '-')}-{started:%Y%m%dT%H%M%SZ}.json"
    return Path(__file__).parent / "results" / file


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 all is well, 1 something failed or differs, 2 the options are invalid."""
    options = parse(arguments)
    device, started = torch.device(options.device), datetime.now(UTC)
    path = options.out or default_path(device, started)
    # Ends a kernel or a compilation that hangs; the file keeps what was measured before it.
    signal.alarm(options.seconds + HANG_SECONDS)
    configure_arithmetic()
    recorder = Recorder(path, device, options.seconds, options.micro_batch)
    recorder.result = empty_result(options, device, started)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        recorder.save()
    except OSError as error:
        print(f"gpu.sh: --out {path} cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    measure_all(recorder, options)
    recorder.result["finished"] = True
    recorder.save()
    return report_outcome(recorder)


def report_outcome(recorder: Recorder) -> int:
    """Print the counts of the finished result; its exit code."""
    result = recorder.result
    compared = [*result["agreement"], *result["torchvision"]]
    differing = [found["configuration"] for found in compared if not found["agrees"]]
    unequal = [found["configuration"] for found in result["layouts"] if not found["same_weights_twice"]]
    print(f"{recorder.path}: {len(result['skipped'])} skipped, {len(result['failed'])} failed")
    if differing:
        print(f"differ from the CPU or torchvision: {', '.join(differing)}")
    if unequal:
        print(f"end with other weights the second time: {', '.join(unequal)}")
    return 1 if differing or unequal or result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
