"""Writes one Arrow file of a data set, a record batch at a time, with its length and digest."""

import hashlib
import io
from typing import IO, Any

import numpy as np
import pyarrow as pa

from pipelines.shards.manifest import INDEX, SCHEMA, ShardInfo
from pipelines.storage.folder import Folder

BATCH_BYTES = 16 * 2**20  # a record batch: what is held in memory of a shard being written


class ShardWriter:
    """Writes one Arrow file, a record batch at a time."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._file = _HashingStream(stream)
        self._arrow = pa.ipc.new_file(self._file, SCHEMA)
        self._rows: list[dict[str, Any]] = []
        self._held, self.rows = 0, 0

    def add(self, row: dict[str, Any]) -> None:
        """Take one image, a row of `SCHEMA`."""
        self._rows.append(row)
        self._held += len(row["image"])
        self.rows += 1
        if self._held >= BATCH_BYTES:
            self._write_batch()

    def close(self, file: str) -> ShardInfo:
        """Write what is left; what the manifest says of the shard under this name."""
        if self._rows:
            self._write_batch()
        self._arrow.close()
        return ShardInfo(file, self.rows, self._file.tell(), self._file.digest.hexdigest())

    def _write_batch(self) -> None:
        self._arrow.write_batch(pa.RecordBatch.from_pylist(self._rows, SCHEMA))
        self._rows, self._held = [], 0


def write_index(folder: Folder, file: str, rows_N3: np.ndarray) -> ShardInfo:
    """Write the index of a split: label, height and width of each image."""
    with folder.writing(file) as stream:
        hashed = _HashingStream(stream)
        with pa.ipc.new_file(hashed, INDEX) as arrow:
            columns = [pa.array(rows_N3[:, place], pa.int32()) for place in range(3)]
            arrow.write_batch(pa.record_batch(columns, schema=INDEX))
        return ShardInfo(file, len(rows_N3), hashed.tell(), hashed.digest.hexdigest())


class _HashingStream(io.RawIOBase):
    """Passes on what is written and keeps its length and SHA-256."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._length, self.digest = stream, 0, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._stream.write(data)
        self.digest.update(data)
        self._length += len(data)
        return len(data)

    def tell(self) -> int:
        return self._length
