"""The folder of staged data sets of one machine: its locks, which data sets are in use, and room for another.

Locks are held by the kernel for a process: a process that is killed holds none.
"""

import shutil
import sys
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from cli.errors import UserError
from pipelines.shards.manifest import MANIFEST

USERS = "users"
"""Folder within a data set with one lock file for each process that uses it."""

_marks: dict[Path, FileLock] = {}


def data_set_lock(data_set: Path) -> FileLock:
    """Lock under which a data set is fetched, marked as in use, or removed."""
    return FileLock(data_set.with_name(f"{data_set.name}.lock"))


def folder_lock(folder: Path) -> FileLock:
    """Lock under which room is made in a folder of data sets."""
    return FileLock(folder / "room.lock")


def mark_in_use(data_set: Path) -> None:
    """Mark a data set as in use until this process ends. Call it under the data set's lock."""
    if data_set in _marks and _marks[data_set].is_locked:
        return
    (data_set / USERS).mkdir(exist_ok=True)
    mark = FileLock(data_set / USERS / uuid4().hex, thread_local=False)  # outlives the thread that staged
    mark.acquire(timeout=0)
    _marks[data_set] = mark


def make_room(needed_bytes: int, target: Path, budget_gb: float | None, purpose: str) -> None:
    """Remove unused data sets beside `target`, the least recently used first, until there is room.

    The room is what the disk has free and, with a budget, what the data sets leave of it. UserError that names
    the `purpose` if there is too little.
    """
    folder = target.parent

    def missing_bytes() -> int:
        on_disk = needed_bytes - shutil.disk_usage(folder).free
        if budget_gb is None:
            return on_disk
        return max(on_disk, _bytes_below(folder) + needed_bytes - int(budget_gb * 1e9))

    others = [other for other in folder.iterdir() if other.is_dir() and other != target]
    for other in sorted(others, key=lambda other: other.stat().st_mtime):
        if missing_bytes() <= 0:
            return
        _remove_unused(other)
    if (missing := missing_bytes()) > 0:
        budget = "" if budget_gb is None else f" within {budget_gb:g} GB"
        raise UserError(
            f"{purpose} takes {needed_bytes / 1e9:.2f} GB, for which {folder} lacks "
            f"{missing / 1e9:.2f} GB{budget}: choose another folder or a larger budget"
        )


def _bytes_below(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # renamed meanwhile by a process that fetches
            total += file.stat().st_size if file.is_file() else 0
    return total


def _remove_unused(data_set: Path) -> None:
    """Remove a data set unless a live process uses, fetches or opens it."""
    try:
        with data_set_lock(data_set).acquire(timeout=0):
            if _in_use(data_set):
                return
            print(f"removing {data_set}, which no process uses, to make room", file=sys.stderr)
            (data_set / MANIFEST).unlink(missing_ok=True)  # first: an incomplete data set never looks complete
            shutil.rmtree(data_set, ignore_errors=True)
    except Timeout:
        return


def _in_use(data_set: Path) -> bool:
    """Whether a live process has marked it. Marks of processes that ended are deleted."""
    for mark in list((data_set / USERS).glob("*")):
        try:
            with FileLock(mark).acquire(timeout=0):
                mark.unlink()
        except Timeout:
            return True
    return False
