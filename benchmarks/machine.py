"""Description of the machine that a result was measured on."""

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

SMI_FIELDS = ("driver_version", "power.limit", "clocks.max.sm", "clocks.max.memory", "mig.mode.current")


def describe(device: torch.device) -> dict[str, Any]:
    """Hardware and software versions by name; None for what this machine does not report."""
    found: dict[str, Any] = {
        "cpu": _first(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo")) or platform.processor(),
        "cpu_count": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": _version("torchvision"),
        "triton": _version("triton"),
        "commit": _output("git", "rev-parse", "HEAD"),
        "gpu": None,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = {
            "name": properties.name,
            "count": torch.cuda.device_count(),
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            **_nvidia_smi(properties),
        }
    return found


def _nvidia_smi(properties: Any) -> dict[str, str | None]:
    """Driver version, power limit and maximum clocks."""
    # By UUID: nvidia-smi ignores CUDA_VISIBLE_DEVICES.
    uuid = getattr(properties, "uuid", None)
    choice = [] if uuid is None else [f"--id=GPU-{str(uuid).removeprefix('GPU-')}"]
    line = _output("nvidia-smi", *choice, f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader")
    values = line.splitlines()[0].split(", ") if line else [None] * len(SMI_FIELDS)
    found = {field.replace(".", "_"): value for field, value in zip(SMI_FIELDS, values, strict=True)}
    driver = _first(r"Kernel Module\D*([\d.]+)", Path("/proc/driver/nvidia/version"))
    return {**found, "driver_version": found["driver_version"] or driver}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _first(pattern: str, path: Path) -> str | None:
    match = re.search(pattern, path.read_text()) if path.exists() else None
    return match[1] if match else None


def _output(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else None
