"""The folder that a packed data set is written to: checked first, and given its name when it is complete."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipelines.packing.plan import LOCK
from pipelines.packing.shard import NOTES
from pipelines.shards.manifest import MANIFEST
from pipelines.storage.folder import Folder


def check_destination(out: Path, overwrite: bool) -> None:
    """ValueError where the folder cannot be made, or would replace something that is not a data set."""
    occupied = out.exists() and not (out.is_dir() and not any(out.iterdir()))
    if occupied and not overwrite:
        raise ValueError(f"{out} exists already: choose another folder, or --overwrite to replace it")
    if occupied and not (out / MANIFEST).is_file():
        raise ValueError(f"--overwrite: {out} is not a packed data set, so it is left alone")
    above = next(folder for folder in out.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"{out} cannot be written: {above} is not a folder that may be written to")


@contextmanager
def replacing_folder(out: Path) -> Iterator[Folder]:
    """A folder to write to, which gets the name `out` when all went well, is removed where the data set cannot
    be packed, and is kept where the packing was interrupted.
    """
    partial, old = out.with_name(f"{out.name}.partial"), out.with_name(f"{out.name}.old")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = FileLock(partial / LOCK)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"{out} is being packed by another process") from error
    except OSError as error:
        raise ValueError(f"{out} cannot be written: {error}") from error
    try:
        yield Folder(str(partial))
        shutil.rmtree(partial / NOTES)
        for left in partial.glob("*.partial"):  # of a process that was killed while it wrote
            left.unlink()
        lock.release()
        (partial / LOCK).unlink(missing_ok=True)
        _swap(partial, out, old)
    except ValueError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        lock.release()
    shutil.rmtree(old, ignore_errors=True)


def _swap(partial: Path, out: Path, old: Path) -> None:
    """Give `partial` the name `out`; what has it moves away whole, and back where that fails."""
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
