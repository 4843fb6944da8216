"""The manifest of a packed data set: `manifest.json`, written last, with the digest of every file."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cli.errors import UserError
from pipelines.storage.folder import Folder

FORMAT, SEGMENTS_FORMAT = 1, 2
"""Formats of a packed data set: files as they are, and JPEG files with restart markers."""


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
"""Schema of a shard. image: the encoded file. boxes: xmin, ymin, xmax, ymax in pixels."""


SEGMENTS_SCHEMA = SCHEMA.append(pa.field("segments", pa.binary()))
"""Schema of a shard in `SEGMENTS_FORMAT`. segments: the bytes of each restart interval of `image`, with the two
of the marker that ends it, uint16, little-endian; empty for a file that was packed as it is."""


INDEX = pa.schema([("label", pa.int32()), ("height", pa.int32()), ("width", pa.int32())])
"""Schema of a split's index file: what a reader needs of all images before it opens a shard."""


@dataclass(frozen=True)
class ShardInfo:
    """One file of a split: its name, rows, size and digest."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """The files of a split, in order."""

    shards: tuple[ShardInfo, ...]
    index: ShardInfo | None = None
    """File with the `INDEX` columns; a manifest may lack it, then readers take the columns from the shards."""

    @property
    def files(self) -> tuple[ShardInfo, ...]:
        """Index and shards."""
        return self.shards if self.index is None else (self.index, *self.shards)

    @property
    def images(self) -> int:
        """Number of images in all shards."""
        return sum(shard.rows for shard in self.shards)


@dataclass(frozen=True)
class SkippedFile:
    """A file of the source that was not packed, with the reason."""

    split: str
    key: str
    reason: str


@dataclass(frozen=True)
class Segments:
    """What was done to the files of a data set in `SEGMENTS_FORMAT`."""

    transcoded: int
    """Files that were given restart markers, with the same coefficients."""
    kept: dict[str, int]
    """Reason -> files that were packed as they are."""


@dataclass(frozen=True)
class Manifest:
    """Describes a packed data set."""

    format: int
    source: str
    classes: tuple[str, ...]
    """Identifiers, sorted; a label is an index into them."""
    class_names: tuple[str, ...]
    """Human-readable names, in the same order."""
    splits: dict[str, Split]
    mean_rgb: tuple[float, float, float]
    """Mean of the training pixels, in the range 0 to 255."""
    covariance_rgb: tuple[tuple[float, ...], ...]
    """3×3 covariance of the training pixels."""
    skipped: tuple[SkippedFile, ...]
    """`set_aside` in the JSON file."""
    segments: Segments | None = None
    """None in `FORMAT`, where the JSON file lacks it."""

    def __post_init__(self) -> None:
        """ValueError if the fields are inconsistent."""
        statistics = np.asarray([self.mean_rgb, *self.covariance_rgb], np.float64)
        if statistics.shape != (4, 3) or not np.isfinite(statistics).all():
            raise ValueError("mean_rgb and covariance_rgb must be 3 and 3×3 finite numbers")
        if len(self.classes) != len(self.class_names):
            raise ValueError(f"{len(self.classes)} classes but {len(self.class_names)} class_names")
        if (self.format == SEGMENTS_FORMAT) != (self.segments is not None):
            raise ValueError(f"segments are told in format {SEGMENTS_FORMAT} alone")
        for shard in (shard for split in self.splits.values() for shard in split.files):
            if Path(shard.file).name != shard.file:
                raise ValueError(f"shard file {shard.file} is not a plain file name")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest, which holds the digests of all files: the identity of the data set."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON: equal manifests give equal bytes."""
        fields = asdict(self)
        fields["set_aside"] = fields.pop("skipped")
        if self.segments is None:
            del fields["segments"]
        return json.dumps(fields, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """ValueError, KeyError, TypeError or AttributeError if a field is missing or malformed."""
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
            skipped=tuple(SkippedFile(**skipped) for skipped in raw["set_aside"]),
            segments=Segments(**raw["segments"]) if raw["format"] == SEGMENTS_FORMAT else None,
        )

    @property
    def schema(self) -> pa.Schema:
        """Of the shards."""
        return SCHEMA if self.segments is None else SEGMENTS_SCHEMA


def read_manifest(root: Path | str) -> Manifest:
    """The manifest of a packed data set, in a folder or at a URI.

    UserError if there is none, or it cannot be read.
    """
    folder = Folder(str(root))
    file = f"{folder.local or folder.uri}/{MANIFEST}"
    if folder.local is not None and not folder.local.is_dir():
        raise UserError(f"no folder {root}: pack a data set with python -m pipelines.pack SOURCE {root}")
    try:
        text = folder.read(MANIFEST).decode()
        found = json.loads(text)["format"]
        if found in (FORMAT, SEGMENTS_FORMAT):
            return Manifest.from_json(text)
    except FileNotFoundError as error:
        raise UserError(
            f"{root} is not a packed data set (no {MANIFEST}): python -m pipelines.pack SOURCE OUT makes one"
        ) from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({error!r}): pack the data set again") from error
    raise UserError(
        f"{file} has format {found}, this version reads {FORMAT} and {SEGMENTS_FORMAT}: pack the data set again"
    )
