"""Which software made a result: this project's version and commit, and the libraries' versions."""

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("torch", "torchvision", "numpy", "pyarrow", "ray", "mlflow", "nvidia-dali-cuda130")

ROOT = Path(__file__).parents[2]


@cache
def software() -> dict[str, str]:
    """Name -> version. Without git, `commit` and `tree` (clean or changed) are unknown."""
    commit = _git("rev-parse", "HEAD") if (ROOT / ".git").exists() else None
    changes = _git("status", "--porcelain") if commit is not None else None
    return {
        "version": _version("vgg-study"),
        "commit": commit or "unknown",
        "tree": "unknown" if changes is None else "changed" if changes else "clean",
        **{name: _version(name) for name in LIBRARIES},
    }


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
