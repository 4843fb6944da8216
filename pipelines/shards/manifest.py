"""The manifest of a packed data set: `manifest.json`, written last, with the digest of every file.

All that must hold of one is said here, by the fields' types and `Manifest.__post_init__`: every command refuses
the same manifests, with the same words. `pipelines.shards.reader` compares the shards with it.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from cli.errors import UserError
from pipelines.shards.schema import EARLIER_FORMATS, FORMAT, FORMATS, IN_SEGMENTS, SEVERAL, shard_schema
from pipelines.storage.folder import Folder

MANIFEST = "manifest.json"


STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
Count = Annotated[int, Field(ge=0, lt=2**48)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}$")]
Name = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class ShardInfo:
    """One file of a split: its name, rows, size and digest."""

    __pydantic_config__ = STRICT

    file: FileName
    rows: Count
    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Split:
    """The files of a split, in order."""

    __pydantic_config__ = STRICT

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

    __pydantic_config__ = STRICT

    split: str
    key: str
    reason: str


@dataclass(frozen=True)
class Segments:
    """What was done to the files of a data set in one of the formats `IN_SEGMENTS`."""

    __pydantic_config__ = STRICT

    transcoded: Count
    """Files that were given restart markers, with the same coefficients."""
    kept: dict[str, Count]
    """Reason -> files that were packed as they are."""


@dataclass(frozen=True)
class BoxStatistics:
    """Of the boxes that count, by the rule of `pipelines.shards.boxes`."""

    __pydantic_config__ = STRICT

    images: dict[str, Count]
    """Split -> its images that have one."""
    mean: tuple[float, float, float, float] | None
    """Mean of the boxes that a training takes: xmin, ymin, xmax, ymax as fractions of the image; None if there
    is none."""


@dataclass(frozen=True)
class Manifest:
    """Describes a packed data set."""

    __pydantic_config__ = STRICT

    format: int
    source: str
    classes: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Identifiers, sorted; a label is an index into them."""
    class_names: tuple[str, ...]
    """Human-readable names, in the same order."""
    splits: dict[Name, Split]
    mean_rgb: tuple[float, float, float]
    """Mean of the training pixels, in the range 0 to 255."""
    covariance_rgb: tuple[tuple[float, ...], ...]
    """3×3 covariance of the training pixels."""
    skipped: Annotated[tuple[SkippedFile, ...], Field(alias="set_aside")]
    """`set_aside` in the JSON file."""
    segments: Segments | None = None
    """None in other formats than `IN_SEGMENTS`, where the JSON file lacks it."""
    boxes: BoxStatistics | None = None
    """None in `EARLIER_FORMATS`, where the JSON file lacks it."""

    def __post_init__(self) -> None:
        """ValueError if the fields contradict each other."""
        if len(self.classes) != len(self.class_names):
            raise ValueError(f"{len(self.classes)} classes but {len(self.class_names)} class_names")
        if (self.format in IN_SEGMENTS) != (self.segments is not None):
            raise ValueError(f"segments are told in formats {', '.join(map(str, IN_SEGMENTS))} alone")
        if (self.format in EARLIER_FORMATS) != (self.boxes is None):
            raise ValueError(f"boxes are counted from format {FORMAT} on")
        files = [file for split in self.splits.values() for file in split.files]
        for what, names in (("class", self.classes), ("file", [file.file for file in files])):
            if doubled := [name for name, times in Counter(names).items() if times > 1]:
                raise ValueError(f"{what} {doubled[0]} is listed twice")
        if any(Path(file.file).name != file.file or file.file == MANIFEST for file in files):
            raise ValueError("a shard's file is not a plain file name")
        for name, split in self.splits.items():
            if split.index is not None and split.index.rows != split.images:
                raise ValueError(
                    f"the index of {name} has {split.index.rows} rows, its shards have {split.images}"
                )
        if self.boxes is not None:
            _check_boxes(self.boxes, {name: split.images for name, split in self.splits.items()})
        _check_statistics(np.asarray(self.mean_rgb), np.asarray(self.covariance_rgb))

    def files(self, splits: Collection[str] = ()) -> list[ShardInfo]:
        """The files of these splits, by default of all. UserError if there is no such split."""
        for name in splits:
            if name not in self.splits:
                raise UserError(f"the data set has no split {name!r}, only {', '.join(self.splits)}")
        return [file for name in splits or self.splits for file in self.splits[name].files]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest, which holds the digests of all files: the identity of the data set."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON: equal manifests give equal bytes."""
        fields = asdict(self)
        fields["set_aside"] = fields.pop("skipped")
        for added in ("segments", "boxes"):
            if fields[added] is None:
                del fields[added]
        return json.dumps(fields, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """ValueError that names the first field that is missing, unknown or malformed."""
        try:
            return _SCHEMA.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from error

    @property
    def several_labels(self) -> bool:
        """Whether an image may be of several classes, or of none."""
        return self.format in SEVERAL

    @property
    def schema(self) -> pa.Schema:
        """Of the shards."""
        return shard_schema(self.format)


_SCHEMA = TypeAdapter(Manifest)


def _check_boxes(boxes: BoxStatistics, images: dict[str, int]) -> None:
    for name, boxed in boxes.images.items():
        if boxed > images.get(name, -1):
            raise ValueError(f"boxes of split {name}: {boxed}, of {images.get(name, 0)} images")
    if (boxes.mean is None) != (not boxes.images.get("train")):
        raise ValueError("a mean box goes with training images that have boxes")
    if boxes.mean is not None and not all(0 <= edge <= 1 for edge in boxes.mean):
        raise ValueError("the mean box must be fractions from 0 to 1")


def _check_statistics(mean_C: np.ndarray, covariance_CC: np.ndarray) -> None:
    if mean_C.shape != (3,) or not ((mean_C >= 0) & (mean_C <= 255)).all():
        raise ValueError("mean_rgb must be 3 numbers from 0 to 255")
    if covariance_CC.shape != (3, 3) or not np.isfinite(covariance_CC).all():
        raise ValueError("covariance_rgb must be 3×3 finite numbers")
    rounding = 1e-6 * max(1.0, float(np.abs(covariance_CC).max()))
    symmetric = np.abs(covariance_CC - covariance_CC.T).max() <= rounding
    if not symmetric or np.linalg.eigvalsh(covariance_CC).min() < -rounding:
        raise ValueError("covariance_rgb must be symmetric, with no negative variance")


def read_manifest(root: Folder | Path | str) -> Manifest:
    """The manifest of a packed data set, in a folder or at a URI.

    UserError if there is none, or it cannot be read; StoreUnavailable if the folder is underway and its store
    stays away.
    """
    folder = root if isinstance(root, Folder) else Folder(str(root))
    if folder.local is not None and not folder.local.is_dir():
        raise UserError(f"no folder {folder.described}: python -m pipelines.pack SOURCE OUT packs a data set")
    try:
        text = folder.read(MANIFEST)
    except FileNotFoundError as error:
        raise UserError(
            f"{folder.described} is not a packed data set (no {MANIFEST}): python -m pipelines.pack SOURCE OUT "
            "makes one"
        ) from error
    file = f"{folder.described}/{MANIFEST}"
    try:
        found = _format(text)
        if found in FORMATS:
            return Manifest.from_json(text)
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}): pack the data set again") from error
    raise UserError(
        f"{file} has format {found!r}, this version reads {', '.join(map(str, FORMATS))}: pack it again"
    )


def _format(text: bytes) -> Any:
    raw = from_json(text)
    if not isinstance(raw, dict) or "format" not in raw:
        raise ValueError("it is no JSON object with a format")
    return raw["format"]
