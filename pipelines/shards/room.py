"""Room for another data set in a machine's folder of staged ones, reserved while it is fetched.

Two processes that stage at the same time would otherwise both count on the same free bytes. A reservation is
the size that a data set will have, in a file of its folder; it holds for as long as a live process has the data
set's lock, and what is there already is no longer counted as reserved.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import Timeout

from cli.errors import UserError
from pipelines.shards.manifest import MANIFEST
from pipelines.shards.staged import data_set_lock, folder_lock, is_in_use
from pipelines.storage.atomic import atomic_file

RESERVED = "reserved.json"
"""File of a data set's folder: bytes that it will have once it is fetched."""


@contextmanager
def reserved_room(needed_bytes: int, target: Path, budget_gb: float | None, purpose: str) -> Iterator[None]:
    """Remove unused data sets beside `target`, the least recently used first, until there is room; reserve it
    while the block fetches the data set.

    The room is what the disk has free and, with a budget, what the data sets leave of it, both without what
    other processes have reserved. The caller holds the data set's lock. UserError that names the `purpose` if
    there is too little.
    """
    _reserve(needed_bytes, target, budget_gb, purpose)
    try:
        yield
    finally:
        (target / RESERVED).unlink(missing_ok=True)


def _reserve(needed_bytes: int, target: Path, budget_gb: float | None, purpose: str) -> None:
    folder = target.parent
    with folder_lock(folder):
        others = [other for other in folder.iterdir() if other.is_dir() and other != target]
        for other in sorted(others, key=lambda other: other.stat().st_mtime):
            if _missing_bytes(needed_bytes, others, budget_gb, folder) <= 0:
                break
            _remove_unused(other)
        missing = _missing_bytes(needed_bytes, others, budget_gb, folder)
        if missing > 0:
            budget = "" if budget_gb is None else f" within {budget_gb:g} GB"
            raise UserError(
                f"{purpose} takes {needed_bytes / 1e9:.2f} GB, for which {folder} lacks "
                f"{missing / 1e9:.2f} GB{budget}: choose another folder or a larger budget"
            )
        with atomic_file(target / RESERVED, "w") as file:
            json.dump(bytes_below(target) + needed_bytes, file)


def _missing_bytes(needed_bytes: int, others: list[Path], budget_gb: float | None, folder: Path) -> int:
    needed_bytes += sum(map(_still_reserved, others))
    on_disk = needed_bytes - shutil.disk_usage(folder).free
    if budget_gb is None:
        return on_disk
    return max(on_disk, bytes_below(folder) + needed_bytes - int(budget_gb * 1e9))


def _still_reserved(data_set: Path) -> int:
    """Bytes that a live process has reserved for a data set and not yet written."""
    try:
        reserved = int(json.loads((data_set / RESERVED).read_text()))
    except (OSError, ValueError):  # none; written atomically
        return 0
    try:
        with data_set_lock(data_set).acquire(timeout=0):
            return 0  # its process has fetched it, or has ended
    except Timeout:
        return max(0, reserved - bytes_below(data_set))


def bytes_below(folder: Path) -> int:
    """Size of all files below a folder."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # renamed meanwhile by a process that fetches
            total += file.stat().st_size if file.is_file() else 0
    return total


def _remove_unused(data_set: Path) -> None:
    """Remove a data set unless a live process uses, fetches or opens it."""
    try:
        with data_set_lock(data_set).acquire(timeout=0):
            if is_in_use(data_set):
                return
            print(f"removing {data_set}, which no process uses, to make room", file=sys.stderr)
            (data_set / MANIFEST).unlink(missing_ok=True)  # first: an incomplete data set never looks complete
            shutil.rmtree(data_set, ignore_errors=True)
    except Timeout:
        return
