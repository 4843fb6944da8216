"""The rows of a posteriors file, mapped into memory only while they are copied.

Shapes: N images, B images of a block, K classes.
"""

import mmap
import os
import weakref
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from cli.errors import UserError
from pipelines.storage.folder import Folder
from vgg.metrics.rows import Rows, blocks_of


class PosteriorFile(Rows):
    """An Arrow file of {key, label, posterior}. A file on a store is copied to a temporary one first.

    It stays open, so that these are the same rows even if another file takes its name.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        """FileNotFoundError if there is none, UserError naming it if it is of another kind."""
        self._name = f"{folder.uri}/{name}"
        self._file = folder.open_locally(name)
        weakref.finalize(self, self._file.close)
        self._bytes = os.fstat(self._file.fileno()).st_size
        try:
            reader = self._reader()
            counts = [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]
        except (OSError, ValueError, pa.ArrowException) as error:  # of mmap, or of Arrow
            raise self._damaged(error) from error
        if not _has_columns(reader.schema):
            raise self._damaged(f"columns {', '.join(reader.schema.names)}")
        self.metadata: dict[bytes, bytes] = reader.schema.metadata or {}
        self._starts = list(accumulate(counts, initial=0))
        super().__init__(self._starts[-1], reader.schema.field("posterior").type.list_size)

    def __getitem__(self, rows: slice) -> np.ndarray:
        parts = []
        for batch in self._batches(rows):
            values = batch.column("posterior").flatten()
            if batch.column("posterior").null_count or values.null_count:
                raise self._damaged("a probability is missing")
            parts.append(values.to_numpy().reshape(batch.num_rows, -1).copy())
        return np.concatenate([np.empty((0, self.shape[1]), np.float32), *parts])

    def keys_and_labels(self) -> tuple[tuple[str, ...], np.ndarray]:
        """The keys, and the labels as int32 [N]. UserError if they are damaged."""
        keys: list[str] = []
        labels = [np.empty(0, np.int32)]
        for rows in blocks_of(self.shape[0]):
            for batch in self._batches(rows):
                keys += batch.column("key").to_pylist()
                labels.append(batch.column("label").to_numpy().copy())
        return tuple(keys), np.concatenate(labels)

    def _batches(self, rows: slice) -> Iterator[pa.RecordBatch]:
        """The parts of record batches that hold these rows."""
        if os.fstat(self._file.fileno()).st_size < self._bytes:  # to read beyond the end would kill the process
            raise UserError(f"{self._name} was cut short while it was read: evaluate again")
        try:
            reader = self._reader()
            for i, (start, stop) in enumerate(pairwise(self._starts)):
                first, last = max(rows.start, start), min(rows.stop, stop)
                if first < last:
                    whole = reader.get_batch(i)
                    whole.validate()  # Arrow trusts lengths and offsets otherwise, and reads beyond the file
                    batch = whole.slice(first - start, last - first)
                    batch.validate(full=True)
                    yield batch
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from error

    def _damaged(self, reason: object) -> UserError:
        return UserError(f"{self._name} holds no posteriors, or is damaged ({reason}): evaluate again")

    def _reader(self) -> Any:
        """Of a mapping that ends with the last batch read from it."""
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped)))


def _has_columns(schema: pa.Schema) -> bool:
    if schema.names != ["key", "label", "posterior"]:
        return False
    key, label, posterior = schema.types
    return bool(
        (key, label) == (pa.string(), pa.int32())
        and pa.types.is_fixed_size_list(posterior)
        and posterior.value_type == pa.float32()
    )
