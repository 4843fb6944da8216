"""Packed data sets: Arrow IPC files, a manifest with their digests, and the order that training reads them in.

A data set is a folder of `SPLIT-00000.arrow` files and a `manifest.json`, which is written last.
"""

import hashlib
import json
import os
import tempfile
from bisect import bisect_right
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.folder import Folder

FORMAT = 1
MANIFEST = "manifest.json"

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("image", pa.binary()),
        ("label", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
    ]
)
"""image: the encoded file. boxes: xmin, ymin, xmax, ymax in pixels."""

INDEX = pa.schema([("label", pa.int32()), ("height", pa.int32()), ("width", pa.int32())])
"""What a reader has to know of all images of a split before it opens a shard, in a file of its own."""


@dataclass(frozen=True)
class ShardInfo:
    """One file of a split."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """The files of a split, in order."""

    shards: tuple[ShardInfo, ...]
    index: ShardInfo | None = None
    """File of `INDEX`; data sets packed by the first version have none."""

    @property
    def files(self) -> tuple[ShardInfo, ...]:
        """All of them."""
        return self.shards if self.index is None else (self.index, *self.shards)

    @property
    def images(self) -> int:
        """Images in all of its shards."""
        return sum(shard.rows for shard in self.shards)


@dataclass(frozen=True)
class SetAside:
    """A file of the source that could not be packed."""

    split: str
    key: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """What a packed data set holds."""

    format: int
    source: str
    classes: tuple[str, ...]
    """Identifiers, sorted; a label is a place in them."""
    class_names: tuple[str, ...]
    """Readable names, in the same order."""
    splits: dict[str, Split]
    mean_rgb: tuple[float, float, float]
    """Mean of the training pixels, 0 to 255."""
    covariance_rgb: tuple[tuple[float, ...], ...]
    """3×3 covariance of the training pixels."""
    set_aside: tuple[SetAside, ...]

    def __post_init__(self) -> None:
        """ValueError where the fields cannot be those of a data set."""
        statistics = np.asarray([self.mean_rgb, *self.covariance_rgb], np.float64)
        if statistics.shape != (4, 3) or not np.isfinite(statistics).all():
            raise ValueError("mean_rgb and covariance_rgb must be 3 and 3×3 finite numbers")
        if len(self.classes) != len(self.class_names):
            raise ValueError(f"{len(self.classes)} classes but {len(self.class_names)} class_names")
        for shard in (shard for split in self.splits.values() for shard in split.files):
            if Path(shard.file).name != shard.file:
                raise ValueError(f"shard file {shard.file} is not a plain file name")

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the manifest, which holds the digests of all shards: the identity of the data."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON: equal manifests give equal bytes."""
        return json.dumps(asdict(self), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """ValueError, KeyError, TypeError or AttributeError where a field is missing or malformed."""
        raw: dict[str, Any] = json.loads(text)
        return cls(
            format=raw["format"],
            source=raw["source"],
            classes=tuple(raw["classes"]),
            class_names=tuple(raw["class_names"]),
            splits={
                name: Split(
                    tuple(ShardInfo(**shard) for shard in split["shards"]),
                    ShardInfo(**split["index"]) if split.get("index") else None,
                )
                for name, split in raw["splits"].items()
            },
            mean_rgb=tuple(raw["mean_rgb"]),
            covariance_rgb=tuple(tuple(row) for row in raw["covariance_rgb"]),
            set_aside=tuple(SetAside(**entry) for entry in raw["set_aside"]),
        )


def read_manifest(root: Path | str) -> Manifest:
    """The manifest of a packed data set, in a folder or at a URI.

    ValueError where there is none or it cannot be read.
    """
    folder = Folder(str(root))
    file = f"{folder.local or folder.uri}/{MANIFEST}"
    if folder.local is not None and not folder.local.is_dir():
        raise ValueError(f"no folder {root}: pack a data set with python -m pipelines.pack SOURCE {root}")
    try:
        text = folder.read(MANIFEST).decode()
        found = json.loads(text)["format"]
        if found == FORMAT:
            return Manifest.from_json(text)
    except FileNotFoundError as error:
        raise ValueError(
            f"{root} is not a packed data set (no {MANIFEST}): python -m pipelines.pack SOURCE OUT makes one"
        ) from error
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged ({error!r}): pack the data set again") from error
    raise ValueError(f"{file} has format {found}, this version reads {FORMAT}: pack the data set again")


def verify(root: Path, manifest: Manifest, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Compare every shard's SHA-256 with the manifest's; `progress(bytes done, bytes in all)`.

    A shard that was verified before and has not been touched since (path, size, time of change, inode) is
    taken as read. ValueError naming the first shard that is missing or differs.
    """
    known: dict[str, list[int]] = {}
    with suppress(OSError, ValueError, TypeError):  # what is forgotten is read again
        known = dict(json.loads(_memory(manifest).read_text()))
    shards = [shard for split in manifest.splits.values() for shard in split.files]
    total, done = sum(shard.bytes for shard in shards), 0

    def check(shard: ShardInfo) -> tuple[str, list[int]]:
        file = root / shard.file
        if not file.is_file():
            raise ValueError(f"shard {file} is missing: pack the data set again")
        stamp = _stamp(file)
        if known.get(stamp[0]) != stamp[1]:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if digest != shard.sha256:
                raise ValueError(
                    f"shard {file} is damaged: its SHA-256 is not the manifest's; copy or pack it again"
                )
        return stamp

    verified = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for shard, (name, stamp) in zip(shards, pool.map(check, shards), strict=True):
            verified[name] = stamp
            done += shard.bytes
            if progress is not None:
                progress(done, total)
    _remember(manifest, {**known, **verified})


def note_verified(root: Path, manifest: Manifest) -> None:
    """Let `verify` know that every file here had its digest when it was written."""
    _remember(manifest, dict(_stamp(root / f.file) for split in manifest.splits.values() for f in split.files))


def _stamp(file: Path) -> tuple[str, list[int]]:
    status = file.stat()
    return str(file.resolve()), [status.st_size, status.st_mtime_ns, status.st_ino]


def _memory(manifest: Manifest) -> Path:
    return Path(tempfile.gettempdir()) / f"vgg-verified-{os.getuid()}" / f"{manifest.digest}.json"


def _remember(manifest: Manifest, verified: dict[str, list[int]]) -> None:
    memory = _memory(manifest)
    with suppress(OSError):  # what is forgotten is read again
        memory.parent.mkdir(mode=0o700, exist_ok=True)
        partial = memory.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(verified))
        partial.replace(memory)


class Shards:
    """One split, memory-mapped: any image by its place, nothing copied. A shard is opened when it is needed."""

    def __init__(self, root: Path, manifest: Manifest, split: str) -> None:
        """ValueError where the split is not there, or a file is missing, cut or not of our schema."""
        if split not in manifest.splits:
            there = ", ".join(manifest.splits)
            raise ValueError(f"{root} has no split {split!r}, only {there}")
        self._root, self._infos = root, manifest.splits[split].shards
        for info in manifest.splits[split].files:
            _check_size(root / info.file, info.bytes)
        index = manifest.splits[split].index
        if index is not None:
            rows = _open(root / index.file, INDEX)
        else:
            tables = [_open(root / info.file, SCHEMA).select(INDEX.names) for info in self._infos]
            rows = pa.concat_tables(tables) if tables else INDEX.empty_table()
        self.labels_N = _int32(rows, "label").astype(np.int64)
        self.heights_N = _int32(rows, "height")
        self.widths_N = _int32(rows, "width")
        self._starts = np.cumsum([0, *(info.rows for info in self._infos)])
        self._opened: dict[int, _Shard] = {}

    def __len__(self) -> int:
        return len(self.labels_N)

    def encoded(self, i: int) -> np.ndarray:
        """The bytes of an image's file, uint8, a view of the mapped shard."""
        shard, row = self._locate(i)
        return shard.encoded(row)

    def key(self, i: int) -> str:
        """Name of an image in its source."""
        return self._cell("key", i)

    def boxes(self, i: int) -> list[tuple[float, float, float, float]]:
        """Boxes of an image: xmin, ymin, xmax, ymax in pixels."""
        return [tuple(box) for box in self._cell("boxes", i) or []]

    def _locate(self, i: int) -> tuple["_Shard", int]:
        """The shard of an image, opened once, and the image's row in it."""
        number = int(np.searchsorted(self._starts, i, side="right")) - 1
        shard = self._opened.get(number)
        if shard is None:
            shard = self._opened[number] = _Shard(_open(self._root / self._infos[number].file, SCHEMA))
        return shard, i - int(self._starts[number])

    def _cell(self, column: str, i: int) -> Any:
        shard, row = self._locate(i)
        return shard.table.column(column)[row].as_py()


class _Shard:
    """The images of one file, as views of its map."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        chunks = table.column("image").chunks
        self._starts = list(accumulate((len(chunk) for chunk in chunks), initial=0))
        self._values = [np.frombuffer(chunk.buffers()[2] or b"", np.uint8) for chunk in chunks]
        self._offsets = [
            np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
            for chunk in chunks
        ]

    def encoded(self, row: int) -> np.ndarray:
        chunk = bisect_right(self._starts, row) - 1
        place, offsets = row - self._starts[chunk], self._offsets[chunk]
        return self._values[chunk][offsets[place] : offsets[place + 1]]


def _int32(table: pa.Table, name: str) -> np.ndarray:
    """A column; `to_numpy` would import pandas for it, which takes a second and 30 MB."""
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
        raise ValueError(f"shard {file} cannot be read: {error.strerror}") from error
    if found != size:
        raise ValueError(f"shard {file} cannot be read: it has {found:,} bytes, {size:,} were packed")


def _open(file: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"shard {file} cannot be read: {error}") from error
    if table.schema != schema:
        raise ValueError(f"shard {file} has another schema than this version: pack the data set again")
    return table


def samples(seed: int, first: int, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions `first` to `first + count` of the endless training stream, as (epochs_B, images_B).

    Position p is place p mod `size` of epoch p div `size`, a permutation that depends on (seed, epoch) alone.
    """
    positions_B = np.arange(first, first + count, dtype=np.int64)
    epochs_B, places_B = np.divmod(positions_B, size)
    images_B = np.empty(count, np.int64)
    for epoch in np.unique(epochs_B):
        chosen = epochs_B == epoch
        images_B[chosen] = _permutation(seed, int(epoch), size)[places_B[chosen]]
    return epochs_B, images_B


_permutations: dict[tuple[int, int, int], np.ndarray] = {}


def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    key = (seed, epoch, size)
    if key not in _permutations:
        if len(_permutations) > 3:  # the epoch that ends and the one that begins, for two loaders
            _permutations.pop(next(iter(_permutations)))
        generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        _permutations[key] = generator.permutation(size)
    return _permutations[key]


def share(rank: int, world: int, total: int) -> range:
    """The contiguous rows of one rank; sizes differ by at most one, larger first (256 over 3: 86, 85, 85)."""
    each, left = divmod(total, world)
    start = rank * each + min(rank, left)
    return range(start, start + each + (rank < left))
