"""Which software made a result: this project's version and commit, and the libraries' versions."""

import json
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pipelines.storage.folder import Folder

LIBRARIES = ("torch", "torchvision", "numpy", "pyarrow", "ray", "mlflow", "nvidia-dali-cuda130")
PACKAGES = ("cli", "cluster", "pipelines", "vgg")

ROOT = Path(__file__).parents[2]


@cache
def software() -> dict[str, str]:
    """Name -> version. Without git, `commit` and `tree` (clean or changed) are unknown."""
    checkout = _checkout()
    commit = _git(checkout, "rev-parse", "HEAD") if checkout is not None else None
    changes = _git(checkout, "status", "--porcelain") if checkout is not None else None
    return {
        "version": _version("vgg-study"),
        "commit": commit or "unknown",
        "tree": "unknown" if changes is None else "changed" if changes else "clean",
        **{name: _version(name) for name in LIBRARIES},
    }


def software_of_run(folder: Folder) -> dict[str, Any]:
    """Fields of a training's result: what this attempt runs, and what earlier ones ran if that differs.

    As the command wrote it to run.json: a worker may run a copy that knows no commit.
    """
    attempts = folder.read_json("run.json").get("software") if folder.exists("run.json") else None
    *earlier, current = attempts or [software()]
    return {"software": current, "earlier_software": earlier}


def _checkout() -> Path | None:
    """The git checkout that this code is of: around it or, in the copy that a submitted job runs in, where it
    is installed from, if that is the same code.
    """
    if (ROOT / ".git").exists():
        return ROOT
    try:
        origin = distribution("vgg-study").read_text("direct_url.json")
    except PackageNotFoundError:
        origin = None
    installed = Path(unquote(urlsplit(json.loads(origin)["url"]).path)) if origin else None
    if installed is None or not (installed / ".git").exists() or _code(installed) != _code(ROOT):
        return None
    return installed


def _code(root: Path) -> dict[str, bytes]:
    """Name -> content of every Python file of the packages."""
    files = (file for package in PACKAGES for file in sorted((root / package).rglob("*.py")))
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


def _git(checkout: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(checkout), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
