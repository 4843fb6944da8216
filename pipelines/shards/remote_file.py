"""Reads a file of an object store in blocks, retrying while the store does not answer."""

from collections.abc import Iterator
from contextlib import suppress
from threading import Event
from typing import Any, Self

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential
from tenacity.nap import sleep_using_event

from cli.errors import UserError
from pipelines.shards.manifest import ShardInfo
from pipelines.storage.folder import Folder

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

    def blocks(self, offset: int, patience_seconds: float, stopped: Event) -> Iterator[bytes]:
        """The bytes from `offset` to the end.

        UserError if the file does not have the manifest's size, or no byte was received for `patience_seconds`.
        """
        while offset < self._info.bytes:
            retrying = _retrying(patience_seconds, stopped)  # anew for every block: it counts from the last one
            try:
                block = retrying(self._read_block, offset)
            except OSError as error:
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"{self._info.file} of {self._source.uri} cannot be fetched: {reason}"
                ) from error
            offset += len(block)
            yield block

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
            raise OSError("the store sent no more bytes")
        return block

    def _open(self) -> None:
        self._stream = self._source.fs.open_input_file(f"{self._source.path}/{self._info.file}")
        if (size := self._stream.size()) != self._info.bytes:
            raise UserError(
                f"{self._info.file} of {self._source.uri} is damaged: {size} bytes, not {self._info.bytes}"
            )

    def _close(self) -> None:
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()
        self._stream = None


def _retrying(patience_seconds: float, stopped: Event) -> Retrying:
    """Retry after an OSError, with pauses of 0.2 s doubling to 5 s, until `stopped` or out of patience."""

    def give_up(state: RetryCallState) -> bool:
        assert state.outcome is not None
        assert state.seconds_since_start is not None
        patience = patience_seconds
        if isinstance(state.outcome.exception(), FileNotFoundError):
            patience = min(patience, MISSING_FILE_SECONDS)
        return stopped.is_set() or state.seconds_since_start > patience

    return Retrying(
        retry=retry_if_exception_type(OSError),
        wait=wait_exponential(multiplier=0.2, max=5),
        stop=give_up,
        sleep=sleep_using_event(stopped),
        reraise=True,
    )
