"""Reads a file of an object store in blocks, retrying while the store does not answer."""

import errno
import time
from collections.abc import Iterator
from contextlib import suppress
from threading import Event
from typing import Any, Self

from cli.errors import UserError
from pipelines.shards.manifest import ShardInfo
from pipelines.storage.folder import Folder
from pipelines.storage.patience import Patience, patiently, reason

BLOCK_BYTES = 4 * 2**20

MISSING_FILE_SECONDS = 30.0  # how long a store that has just restarted may not know its files


class RemoteFile:
    """A file of a store; a context manager."""

    def __init__(self, source: Folder, info: ShardInfo) -> None:
        self._source, self._info = source, info
        self._stream: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def blocks(self, offset: int, patience: Patience, stopped: Event) -> Iterator[bytes]:
        """The bytes from `offset` to the end.

        UserError if the file is missing or does not have the manifest's size; what `patience` raises if the
        store refuses, or no byte was received for as long as it lasts.
        """
        while offset < self._info.bytes:
            block = self._block(offset, patience, stopped)  # patience counts from the last block
            offset += len(block)
            yield block

    def _block(self, offset: int, patience: Patience, stopped: Event) -> bytes:
        deadline = time.monotonic() + min(patience.seconds, MISSING_FILE_SECONDS)
        while True:
            try:
                return patiently(
                    lambda: self._read_block(offset), patience, self._source.described, stopped=stopped
                )
            except FileNotFoundError as error:
                if stopped.wait(0.5) or time.monotonic() > deadline:
                    raise UserError(f"{self._info.file} of {self._source.described} is missing") from error
            except OSError as error:
                raise patience.raises(
                    f"{self._info.file} of {self._source.described} cannot be fetched: {reason(error)}"
                ) from error

    def _read_block(self, offset: int) -> bytes:
        try:
            if self._stream is None:
                self._open()
            block = self._stream.read_at(min(BLOCK_BYTES, self._info.bytes - offset), offset)
        except OSError:
            self._close()
            raise
        if not block:
            self._close()
            raise ConnectionAbortedError(errno.ECONNABORTED, "the store sent no more bytes")
        return block

    def _open(self) -> None:
        self._stream = self._source.fs.open_input_file(f"{self._source.path}/{self._info.file}")
        if (size := self._stream.size()) != self._info.bytes:
            raise UserError(
                f"{self._info.file} of {self._source.described} is damaged: "
                f"{size} bytes, not {self._info.bytes}"
            )

    def _close(self) -> None:
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()
        self._stream = None
