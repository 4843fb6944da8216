"""The folder of staged data sets of one machine: its locks, and which data sets are in use.

Locks are held by the kernel for a process: a process that is killed holds none.
"""

from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

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


def is_in_use(data_set: Path) -> bool:
    """Whether a live process has marked it. Marks of processes that ended are deleted."""
    for mark in list((data_set / USERS).glob("*")):
        try:
            with FileLock(mark).acquire(timeout=0):
                mark.unlink()
        except Timeout:
            return True
    return False
