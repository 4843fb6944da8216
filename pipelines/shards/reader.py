"""Random access to a split of a packed data set through memory-mapped Arrow files.

Shapes: N images of the split.
"""

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cli.errors import UserError
from pipelines.shards.boxes import Box, OwnBoxes
from pipelines.shards.manifest import Manifest, ShardInfo
from pipelines.shards.schema import INDEX, LABELS, UNLABELLED

NO_SEGMENTS = np.empty(0, np.uint16)

Classes = tuple[tuple[int, ...], ...]
"""Of each image its classes, ascending."""


class Shards:
    """One split: any image by its index, without a copy. A shard is opened at the first access to it."""

    def __init__(self, root: Path, manifest: Manifest, split: str, *, labelled: bool = True) -> None:
        """UserError if there is no such split, or a file is missing, truncated or of another schema.

        `labelled`: whether every image must have a class; one without is labelled `UNLABELLED`.
        """
        if split not in manifest.splits:
            raise UserError(f"{root} has no split {split!r}, only {', '.join(manifest.splits)}")
        self._root, self._infos, self._schema = root, manifest.splits[split].shards, manifest.schema
        self._classes = manifest.classes
        for info in manifest.splits[split].files:
            _check_size(root / info.file, info.bytes)
        index = manifest.splits[split].index
        if index is not None:
            rows = _open(root / index.file, INDEX)
        else:
            tables = [_open(root / info.file, self._schema).select(INDEX.names) for info in self._infos]
            rows = pa.concat_tables(tables) if tables else INDEX.empty_table()
        self.labels_N = _int32(rows, "label").astype(np.int64)
        self.heights_N = _int32(rows, "height")
        self.widths_N = _int32(rows, "width")
        self._check_rows(manifest, split, labelled)
        self._starts = np.cumsum([0, *(info.rows for info in self._infos)])
        self._opened: dict[int, _Shard] = {}

    def _check_rows(self, manifest: Manifest, split: str, labelled: bool) -> None:
        """UserError where the rows contradict the manifest: training would fail, or count other images."""
        where, again = f"{self._root}, split {split}", "pack the data set again"
        if len(self) != manifest.splits[split].images:
            said = manifest.splits[split].images
            raise UserError(f"{where}: the manifest says {said:,} rows, the files hold {len(self):,}: {again}")
        if not len(self):
            return
        smallest, largest = int(self.labels_N.min()), int(self.labels_N.max())
        if labelled and manifest.several_labels:
            raise UserError(
                f"{where}: an image may be of several classes: python -m vgg.transfer takes its features; nets "
                "are trained and tested on images of one class each"
            )
        if labelled and smallest == largest == UNLABELLED:
            raise UserError(f"{where}: its images have no labels: they can be predicted, not tested or learnt")
        if smallest < (0 if labelled else UNLABELLED) or largest >= len(manifest.classes):
            raise UserError(
                f"{where}: labels go from {smallest} to {largest}, the manifest has {len(manifest.classes)} "
                f"classes: {again}"
            )
        if min(self.heights_N.min(), self.widths_N.min()) < 1:
            raise UserError(f"{where}: an image has no height or width: {again}")

    def __len__(self) -> int:
        return len(self.labels_N)

    def encoded(self, i: int) -> np.ndarray:
        """The encoded file of an image, uint8, as a view of the mapped shard.

        UserError if the shard has been cut short: to read beyond its end would kill the process (SIGBUS). A
        shard that is cut between this check and the reading of the view is not noticed.
        """
        shard, row = self._locate(i)
        return shard.images.cell(row)

    def encoded_in_segments(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The encoded file of an image, as from `encoded`, and the bytes of each restart interval, uint16.

        There are no intervals if the file was packed as it is.
        """
        shard, row = self._locate(i)
        if shard.segments is None:
            return shard.images.cell(row), NO_SEGMENTS
        return shard.images.cell(row), shard.segments.cell(row).view(np.uint16)

    def key(self, i: int) -> str:
        """Name of an image in the source."""
        return self._cell("key", i)

    def classes_of_all(self) -> tuple[Classes, Classes]:
        """Of every image its classes, and those of which it has hard objects alone."""
        if "labels" not in self._schema.names:
            own = tuple(() if label == UNLABELLED else (label,) for label in self.labels_N.tolist())
            return own, ((),) * len(own)
        found: dict[str, list[tuple[int, ...]]] = {name: [] for name in LABELS}
        for number in range(len(self._infos)):
            for name, rows in found.items():
                rows += [
                    tuple(sorted(cell or ())) for cell in self._shard(number).table.column(name).to_pylist()
                ]
        for label in (label for rows in found.values() for row in rows for label in row):
            if not 0 <= label < len(self._classes):
                raise UserError(f"{self._root}: a label is {label}: pack the data set again")
        return tuple(found["labels"]), tuple(found["difficult"])

    def boxes(self, i: int) -> list[Box]:
        """Bounding boxes of an image, of whatever class, as they were noted."""
        cells = self._cell("boxes", i) or []
        return [Box(**cell) if isinstance(cell, dict) else Box(*cell) for cell in cells]

    def own_boxes(self) -> OwnBoxes:
        """The boxes that count of every image; see `pipelines.shards.boxes`."""
        sizes_N2 = np.stack([self.heights_N, self.widths_N], 1)
        parts = []
        for number in range(len(self._infos)):
            rows = slice(self._starts[number], self._starts[number + 1])
            column = self._shard(number).table.column("boxes")
            parts.append(OwnBoxes.of_column(column, self.labels_N[rows], sizes_N2[rows], self._classes))
        return OwnBoxes.joined(parts)

    def _locate(self, i: int) -> tuple["_Shard", int]:
        """The shard that holds an image, and the image's row in it."""
        number = int(np.searchsorted(self._starts, i, side="right")) - 1
        return self._shard(number), i - int(self._starts[number])

    def _shard(self, number: int) -> "_Shard":
        """A shard, opened once."""
        shard = self._opened.get(number)
        if shard is None:
            info = self._infos[number]
            _check_size(self._root / info.file, info.bytes)
            shard = self._opened[number] = _Shard(self._root / info.file, info, self._schema)
        else:
            shard.check_not_cut()
        return shard

    def _cell(self, column: str, i: int) -> Any:
        shard, row = self._locate(i)
        return shard.table.column(column)[row].as_py()


class _Shard:
    """Zero-copy access to the images of one memory-mapped file."""

    def __init__(self, file: Path, info: ShardInfo, schema: pa.Schema) -> None:
        self._file, self._size, self._inode = file, info.bytes, file.stat().st_ino
        self.table = _open(file, schema)
        if len(self.table) != info.rows:
            raise UserError(
                f"shard {file} holds {len(self.table):,} rows, the manifest says {info.rows:,}: "
                "pack the data set again"
            )
        self.images = _BinaryColumn(self.table.column("image").chunks)
        self.segments = None
        if "segments" in schema.names:
            self.segments = _BinaryColumn(self.table.column("segments").chunks)

    def check_not_cut(self) -> None:
        """UserError if the mapped file is shorter than it was. A replaced or deleted one stays mapped."""
        try:
            status = self._file.stat()
        except OSError:
            return
        if status.st_ino == self._inode and status.st_size < self._size:
            raise UserError(
                f"shard {self._file} was cut short while it was read: it has {status.st_size:,} bytes, "
                f"{self._size:,} were packed; copy or pack it again"
            )


class _BinaryColumn:
    """The cells of a binary column, as views of the mapped file."""

    def __init__(self, chunks: list[pa.Array]) -> None:
        self._starts = list(accumulate((len(chunk) for chunk in chunks), initial=0))
        self._values = [np.frombuffer(chunk.buffers()[2] or b"", np.uint8) for chunk in chunks]
        self._offsets = [
            np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
            for chunk in chunks
        ]

    def cell(self, row: int) -> np.ndarray:
        """The bytes of a row, uint8."""
        chunk = bisect_right(self._starts, row) - 1
        row_in_chunk, offsets = row - self._starts[chunk], self._offsets[chunk]
        return self._values[chunk][offsets[row_in_chunk] : offsets[row_in_chunk + 1]]


def _int32(table: pa.Table, name: str) -> np.ndarray:
    """A column as NumPy. Arrow's `to_numpy` would import pandas, which takes a second and 30 MB."""
    parts = [
        np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset : chunk.offset + len(chunk)]
        for chunk in table.column(name).chunks
        if len(chunk)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int32), *parts])


def _check_size(file: Path, size: int) -> None:
    try:
        found = file.stat().st_size
    except OSError as error:
        raise UserError(f"shard {file} cannot be read: {error.strerror}") from error
    if found != size:
        raise UserError(f"shard {file} cannot be read: it has {found:,} bytes, {size:,} were packed")


def _open(file: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"shard {file} cannot be read: {error}") from error
    if table.schema != schema:
        raise UserError(f"shard {file} does not have this version's schema: pack the data set again")
    return table
