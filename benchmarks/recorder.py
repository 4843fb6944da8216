"""The result file of the GPU benchmark, written after each measurement: a run that is cut short keeps it."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipelines.storage.atomic import atomic_file

SECTIONS = ("agreement", "torchvision", "layouts", "training")


class Recorder:
    """Runs measurements within a time budget and appends them to the sections of the result."""

    def __init__(self, path: Path, device: torch.device, budget_seconds: int, micro_batch: int) -> None:
        self.path, self.device = path, device
        self.result: dict[str, Any] = {}
        self._budget_seconds, self._micro_batch = budget_seconds, micro_batch
        self._started = time.perf_counter()
        self._longest_seconds: dict[str, float] = {}  # section and mode -> longest measurement so far

    def save(self) -> None:
        """Replace the file atomically."""
        self.result["seconds"] = round(time.perf_counter() - self._started, 1)
        with atomic_file(self.path, "w") as file:
            file.write(json.dumps(self.result, indent=1) + "\n")

    def skip(self, name: str, reason: str) -> None:
        """Record that a measurement is not made, and why."""
        print(f"skipped {name}: {reason}", flush=True)
        self.result["skipped"].append({"what": name, "why": reason})
        self.save()

    def fail(self, name: str, reason: str) -> None:
        """Record that a measurement broke, and how."""
        print(f"FAILED {name}: {reason}", flush=True)
        self.result["failed"].append({"what": name, "why": reason})

    def measure(
        self, section: str, labels: dict[str, str], expected_seconds: float, call: Callable[[], dict[str, Any]]
    ) -> None:
        """Append `labels` and `call()` to a section, unless the time left is shorter than it may take.

        That is `expected_seconds` for the first measurement of a section and mode, then the longest so far.
        """
        name = " ".join([section, *labels.values()])
        kind = section + labels.get("mode", "")
        left = self._budget_seconds - (time.perf_counter() - self._started)
        if left < self._longest_seconds.get(kind, expected_seconds):
            self.skip(name, f"{max(0, left):.0f} s left of {self._budget_seconds}, it may take longer")
            return
        started = time.perf_counter()
        try:
            found = {**labels, **call()}
        except torch.cuda.OutOfMemoryError:
            self.skip(name, f"out of GPU memory: try --micro-batch {self._micro_batch // 2}")
        except RuntimeError as error:  # a broken kernel or compiler: other measurements may still work
            self.fail(name, f"{type(error).__name__}: {error}")
        else:
            print(f"{name}: {_summary(found)}", flush=True)
            self.result[section].append(found)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        seconds = time.perf_counter() - started
        self._longest_seconds[kind] = max(self._longest_seconds.get(kind, 0), seconds)
        self.save()


def _summary(found: dict[str, Any]) -> str:
    """A measurement in one line."""
    if "scores" in found:  # torchvision
        return f"{'agrees' if found['agrees'] else 'DIFFERS'}, scores off by {found['scores']:.1e}"
    if "same_weights_twice" in found:
        same = "the same weights" if found["same_weights_twice"] else "OTHER WEIGHTS"
        host = found["host_seconds_per_step"]["ddp"]
        return (
            f"fixed order takes {found['fixed_order_times_ddp']:.2f} of ddp's time, and gives {same} twice; "
            f"the host needs {1000 * host:.1f} ms for a step"
        )
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
