"""Fetches the files of a data set from an object store: in parallel, resumed and verified.

A file is fetched to NAME.partial and renamed once its digest is right; a NAME.partial that is there is resumed.
"""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event, Lock
from typing import IO

from cli.errors import UserError
from pipelines.shards.manifest import ShardInfo
from pipelines.shards.remote_file import BLOCK_BYTES, RemoteFile
from pipelines.storage.folder import Folder
from pipelines.storage.patience import Patience


def fetch_all(
    source: Folder,
    files: list[ShardInfo],
    target: Path,
    *,
    streams: int,
    patience: Patience,
    progress: Callable[[int], None],
) -> None:
    """Fetch `files` of `source` to the folder `target`, `streams` at a time; calls `progress(bytes so far)`.

    Has `patience` from the last byte received on. When one file fails, the others stop. UserError
    naming the file that is missing, damaged or cannot be written; what `patience` raises where the store fails.
    """
    fetch = _Fetch(source, target, patience, progress)
    with ThreadPoolExecutor(streams) as pool:
        try:
            tasks = [pool.submit(fetch.one, file) for file in files]
            for task in wait(tasks, return_when=FIRST_EXCEPTION).done:
                task.result()
        finally:
            fetch.stopped.set()
            pool.shutdown(cancel_futures=True)


class _Stopped(Exception):
    """Another file has failed, or the process is interrupted."""


class _Fetch:
    """Fetches single files, from several threads at a time."""

    def __init__(
        self, source: Folder, target: Path, patience: Patience, progress: Callable[[int], None]
    ) -> None:
        self.stopped = Event()
        self._source, self._target = source, target
        self._patience, self._progress = patience, progress
        self._bytes_so_far, self._counting = 0, Lock()

    def one(self, info: ShardInfo) -> None:
        """Fetch and verify one file; if its digest is wrong, once more from the start."""
        unfinished = self._target / f"{info.file}.partial"
        for _ in range(2):
            if self._complete(info, unfinished) == info.sha256:
                unfinished.rename(self._target / info.file)
                return
            unfinished.unlink()
            self._count(-info.bytes)
        raise UserError(f"{info.file} of {self._source.uri} is damaged: its SHA-256 is not the manifest's")

    def _complete(self, info: ShardInfo, unfinished: Path) -> str:
        """Append what is missing of a file; returns its SHA-256."""
        digest = hashlib.sha256()
        with unfinished.open("a+b") as file, RemoteFile(self._source, info) as remote:
            file.seek(0)
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
                self._count(len(block))
            for block in remote.blocks(file.tell(), self._patience, self.stopped):
                _append(file, block)
                digest.update(block)
                self._count(len(block))
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def _count(self, size: int) -> None:
        if self.stopped.is_set():
            raise _Stopped
        with self._counting:
            self._bytes_so_far += size
            self._progress(self._bytes_so_far)


def _append(file: IO[bytes], block: bytes) -> None:
    try:
        file.write(block)
    except OSError as error:
        raise UserError(f"{file.name} cannot be written: {error.strerror}") from error
