"""Brings a packed data set from an object store to this machine's disk.

    under a lock that the workers of a machine share, so that one of them fetches and the others wait:
        make room within the budget, by removing data sets that nobody uses, the longest unused first
        fetch the files in parallel; each resumes where it was cut off, and is named once its digest is right
        write the manifest last

A data set on a disk or on NFS is used where it lies.
"""

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Lock
from typing import IO, Any

import tyro

from cli.progress import ProgressMeter
from pipelines.shards.manifest import MANIFEST, Manifest, ShardInfo, read_manifest
from pipelines.shards.verification import note_verified
from pipelines.storage.folder import Folder

BLOCK = 4 * 2**20  # bytes that a stream holds


IN_USE = "in-use"


DEFAULT_FOLDER = Path(tempfile.gettempdir()) / f"vgg-staged-{os.getuid()}"


@dataclass(frozen=True)
class StagingOptions:
    """Bring a packed data set to this machine's disk, verified by its digests; print where it lies."""

    data: tyro.conf.Positional[str]
    """URI of the packed data set, such as s3://bucket/data."""
    folder: Path = DEFAULT_FOLDER
    """Where staged data sets lie: a local disk, the faster the better."""
    budget_gb: float | None = None
    """What they may take together. Default: what is free."""
    streams: int = 8
    """Files that are fetched at a time."""
    patience_seconds: float = 300.0
    """How long to try again when the store does not answer."""


def stage(options: StagingOptions) -> Path:
    """Folder of the data set on this machine; where it is not remote, its own.

    While this process lives no other removes what it staged. ValueError where the data set is not there or
    damaged, there is no room for it, or the store stays away.
    """
    source = Folder(options.data)
    if source.local is not None:
        return source.local
    manifest = read_manifest(options.data)
    target = options.folder.absolute() / manifest.digest[:16]
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{options.folder} cannot be made: {error.strerror}") from error
    with _locked(options.folder / f"{target.name}.lock"):
        target.mkdir(exist_ok=True)
        _mark_used(target)
        if not (target / MANIFEST).is_file():
            _fetch_all(source, manifest, target, options)
        os.utime(target)
    return target


def _fetch_all(source: Folder, manifest: Manifest, target: Path, options: StagingOptions) -> None:
    files = [file for split in manifest.splits.values() for file in split.files]
    left = [file for file in files if not (target / file.file).is_file()]
    there = sum(file.stat().st_size for file in target.glob("*.partial"))
    with _locked(options.folder / "room.lock"):
        _make_room(sum(file.bytes for file in left) - there, target, options)
    fetched, counting, stopped = 0, Lock(), Event()
    with ProgressMeter(f"staging {options.data}", sum(f.bytes for f in left) // 10**6, "MB") as meter:

        def count(size: int) -> None:
            nonlocal fetched
            if stopped.is_set():
                raise ValueError("stopped")
            with counting:
                meter.advance((fetched + size) // 10**6 - fetched // 10**6)
                fetched += size

        with ThreadPoolExecutor(options.streams) as pool:
            fetch = partial(_fetch, source, target, count, options.patience_seconds)
            tasks = [pool.submit(fetch, file) for file in left]
            try:
                for task in tasks:
                    task.result()
            except BaseException:
                stopped.set()
                pool.shutdown(cancel_futures=True)
                raise
    note_verified(target, manifest)
    Folder(str(target)).write(MANIFEST, manifest.to_json().encode())


def _make_room(needed: int, target: Path, options: StagingOptions) -> None:
    """Remove unused data sets until there is room. ValueError where there cannot be."""

    def lacking() -> int:
        least = needed - shutil.disk_usage(options.folder).free
        if options.budget_gb is None:
            return least
        used = sum(file.stat().st_size for file in options.folder.rglob("*") if file.is_file())
        return max(least, used + needed - int(options.budget_gb * 1e9))

    others = [folder for folder in options.folder.iterdir() if folder.is_dir() and folder != target]
    for folder in sorted(others, key=lambda folder: folder.stat().st_mtime):
        if lacking() <= 0:
            return
        if _unused(folder):
            print(f"removing {folder}, which nothing uses, for room", file=sys.stderr)
            (folder / MANIFEST).unlink(missing_ok=True)  # first: half a data set never looks whole
            shutil.rmtree(folder, ignore_errors=True)
    if (short := lacking()) > 0:
        budget = "" if options.budget_gb is None else f" within {options.budget_gb:g} GB"
        raise ValueError(
            f"staging {options.data} takes {needed / 1e9:.2f} GB, for which {options.folder} lacks "
            f"{short / 1e9:.2f} GB{budget}: choose another folder or a larger budget"
        )


def _fetch(
    source: Folder, target: Path, count: Callable[[int], None], patience_seconds: float, info: ShardInfo
) -> None:
    """Bring one file, whole and verified, or raise ValueError."""
    unfinished = target / f"{info.file}.partial"
    for attempt in range(2):
        digest = _complete(
            source, info, unfinished, patience_seconds, count if attempt == 0 else lambda _: None
        )
        if digest == info.sha256:
            unfinished.rename(target / info.file)
            return
        unfinished.unlink()  # what an earlier staging left may be at fault: once more from the start
    raise ValueError(f"{info.file} of {source.uri} is damaged: its SHA-256 is not the manifest's")


def _complete(
    source: Folder, info: ShardInfo, unfinished: Path, patience_seconds: float, count: Callable[[int], None]
) -> str:
    """Fetch from the byte where the file ends, trying again while the store is away; its SHA-256."""
    digest, pause = hashlib.sha256(), 0.2
    with unfinished.open("a+b") as file:
        file.seek(0)
        while block := file.read(BLOCK):
            digest.update(block)
            count(len(block))
        last_heard = time.monotonic()
        while True:
            try:
                for block in _blocks(source, info, file.tell()):
                    _write(file, block)
                    digest.update(block)
                    count(len(block))
                    last_heard, pause = time.monotonic(), 0.2
                break
            except OSError as error:
                # A store that starts anew may not know its files for a moment.
                patience = (
                    min(patience_seconds, 30) if isinstance(error, FileNotFoundError) else patience_seconds
                )
                if time.monotonic() - last_heard > patience:
                    reason = str(error).splitlines()[0]
                    raise ValueError(f"{info.file} of {source.uri} cannot be fetched: {reason}") from error
                count(0)
                time.sleep(pause)
                pause = min(2 * pause, 5.0)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _blocks(source: Folder, info: ShardInfo, first: int) -> Iterator[bytes]:
    with source.fs.open_input_file(f"{source.path}/{info.file}") as stream:
        if stream.size() != info.bytes:
            raise ValueError(f"{info.file} of {source.uri} is damaged: {stream.size()} bytes, not {info.bytes}")
        while first < info.bytes:
            block = stream.read_at(min(BLOCK, info.bytes - first), first)
            if not block:
                raise OSError("the store gave no more bytes")
            first += len(block)
            yield block


def _write(file: IO[bytes], block: bytes) -> None:
    try:
        file.write(block)
    except OSError as error:  # of this disk, not of the store
        raise ValueError(f"{file.name} cannot be written: {error.strerror}") from error


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


_marks: dict[Path, Any] = {}


def _mark_used(folder: Path) -> None:
    """Mark a folder as used until this process ends."""
    if folder not in _marks:
        handle = (folder / IN_USE).open("a")
        fcntl.flock(handle, fcntl.LOCK_SH)
        _marks[folder] = handle


def _unused(folder: Path) -> bool:
    try:
        with (folder / IN_USE).open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
