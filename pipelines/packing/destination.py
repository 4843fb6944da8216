"""The folder that a packed data set is written to: checked first, and renamed to OUT when it is complete."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cli.errors import UserError
from pipelines.packing.plan import LOCK
from pipelines.packing.shard import NOTES
from pipelines.shards.manifest import MANIFEST
from pipelines.storage.folder import Folder


class UnpackableSource(UserError):
    """A source without a readable image where one is needed: its finished shards are of no use."""


def check_destination(out: Path, overwrite: bool) -> None:
    """UserError if the folder cannot be created, or would replace something that is not a data set."""
    occupied = out.exists() and not (out.is_dir() and not any(out.iterdir()))
    if occupied and not overwrite:
        raise UserError(f"{out} exists already: choose another folder, or --overwrite to replace it")
    if occupied and not (out / MANIFEST).is_file():
        raise UserError(f"--overwrite: {out} is not a packed data set, so it is left alone")
    parent = next(folder for folder in out.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{out} cannot be written: {parent} is not a folder that may be written to")


@contextmanager
def replacing_folder(out: Path) -> Iterator[Folder]:
    """A working folder beside `out` that is renamed to `out` when the block ends.

    It is deleted if the block raises `UnpackableSource`. After any other error it is kept, and the next packing
    resumes from the shards in it. UserError if another process packs to `out`.
    """
    partial, old = out.with_name(f"{out.name}.partial"), out.with_name(f"{out.name}.old")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = FileLock(partial / LOCK)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"{out} is being packed by another process") from error
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}") from error
    try:
        yield Folder(str(partial))
        shutil.rmtree(partial / NOTES)
        for leftover in partial.glob("*.partial"):  # of a process that was killed while it wrote
            leftover.unlink()
        lock.release()
        (partial / LOCK).unlink(missing_ok=True)
        _swap(partial, out, old)
    except UnpackableSource:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        lock.release()
    shutil.rmtree(old, ignore_errors=True)


def _swap(partial: Path, out: Path, old: Path) -> None:
    """Rename `partial` to `out`, and an existing `out` to `old` before; undone if the last rename fails."""
    if not out.exists():
        partial.rename(out)
        return
    shutil.rmtree(old, ignore_errors=True)
    out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        old.rename(out)
        raise
