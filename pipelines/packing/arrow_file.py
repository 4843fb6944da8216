"""Writes the Arrow files of a data set and computes their length and SHA-256 on the way."""

import hashlib
import io
from typing import IO, Any

import numpy as np
import pyarrow as pa

from pipelines.shards.manifest import ShardInfo
from pipelines.shards.schema import INDEX
from pipelines.storage.folder import Folder

BATCH_BYTES = 16 * 2**20  # encoded images in a record batch, which is held in memory until it is written


class ShardWriter:
    """Writes one shard, a record batch at a time."""

    def __init__(self, stream: IO[bytes], schema: pa.Schema) -> None:
        self._file, self._schema = _HashingStream(stream), schema
        self._arrow = pa.ipc.new_file(self._file, schema)
        self._rows: list[dict[str, Any]] = []
        self._batch_bytes, self.rows = 0, 0

    def add(self, row: dict[str, Any]) -> None:
        """Append one image, a row of the schema."""
        self._rows.append(row)
        self._batch_bytes += len(row["image"])
        self.rows += 1
        if self._batch_bytes >= BATCH_BYTES:
            self._write_batch()

    def close(self, file: str) -> ShardInfo:
        """Write the last batch; returns the manifest's entry for the shard under this file name."""
        if self._rows:
            self._write_batch()
        self._arrow.close()
        return ShardInfo(file, self.rows, self._file.tell(), self._file.digest.hexdigest())

    def _write_batch(self) -> None:
        self._arrow.write_batch(pa.RecordBatch.from_pylist(self._rows, self._schema))
        self._rows, self._batch_bytes = [], 0


def write_index(folder: Folder, file: str, rows_N3: np.ndarray) -> ShardInfo:
    """Write the index of a split, int32 [images, 3]: label, height and width of each image."""
    with folder.writing(file) as stream:
        hashed = _HashingStream(stream)
        with pa.ipc.new_file(hashed, INDEX) as arrow:
            columns = [pa.array(rows_N3[:, column], pa.int32()) for column in range(3)]
            arrow.write_batch(pa.record_batch(columns, schema=INDEX))
        return ShardInfo(file, len(rows_N3), hashed.tell(), hashed.digest.hexdigest())


class _HashingStream(io.RawIOBase):
    """Forwards what is written and computes its length and SHA-256."""

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
