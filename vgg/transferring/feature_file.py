"""Features on disk: an Arrow IPC file of {key, labels, difficult, feature: F × float32}, one row per image.

A record batch is a block of images and carries its own digest, so that a file is written and read block by
block. The schema's metadata hold the provenance and the number of images.

Shapes: N images, B images of a block, F numbers of a descriptor.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cli.errors import Failure, UserError
from pipelines.storage.folder import Folder
from vgg.transferring.provenance import FeatureProvenance

FORMAT = 1

_CLASSES = pa.list_(pa.int32())

Labels = tuple[tuple[int, ...], ...]
"""Of each image its classes, ascending."""


@dataclass(frozen=True)
class Features:
    """Descriptors of images, in the order of the split, with their labels."""

    keys: tuple[str, ...]
    labels: Labels
    difficult: Labels
    """Classes that an image has hard objects of alone: it counts neither for nor against these."""
    features_NF: np.ndarray
    """float32."""

    def of_the_images_of(self, other: "Features") -> bool:
        """Whether both are of the same images with the same labels."""
        ours, theirs = ((each.keys, each.labels, each.difficult) for each in (self, other))
        return ours == theirs

    @property
    def digest(self) -> str:
        """SHA-256 of all of this."""
        text = json.dumps([self.keys, self.labels, self.difficult, self.features_NF.shape])
        digest = hashlib.sha256(text.encode())
        digest.update(np.ascontiguousarray(self.features_NF, "<f4").tobytes())
        return digest.hexdigest()


def write(
    folder: Folder,
    name: str,
    provenance: FeatureProvenance,
    images: int,
    units: int,
    blocks: Iterable[Features],
) -> None:
    """Save `images` descriptors of `units` numbers, atomically. Failure if one is not finite."""
    metadata = {"format": FORMAT, "images": images, "provenance": provenance.to_json()}
    schema = pa.schema(
        [
            ("key", pa.string()),
            ("labels", _CLASSES),
            ("difficult", _CLASSES),
            ("feature", pa.list_(pa.float32(), units)),
        ],
        {"vgg.features": json.dumps(metadata)},
    )
    with folder.writing(name) as file, pa.ipc.new_file(file, schema) as writer:
        for block in blocks:
            finite_B = np.isfinite(block.features_NF).all(1)
            if not finite_B.all():
                key = block.keys[int(finite_B.argmin())]
                raise Failure(f"the activations of {key} are not finite: choose --precision fp32 or bf16")
            writer.write_batch(_batch(block, schema), custom_metadata={"sha256": block.digest})


def _batch(block: Features, schema: pa.Schema) -> pa.RecordBatch:
    values = np.ascontiguousarray(block.features_NF, np.float32)
    columns = [
        pa.array(block.keys, pa.string()),
        pa.array(block.labels, _CLASSES),
        pa.array(block.difficult, _CLASSES),
        pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1]),
    ]
    return pa.record_batch(columns, schema=schema)


class FeatureFile:
    """A file of features, whose blocks are read and verified when they are asked for."""

    def __init__(self, folder: Folder, name: str) -> None:
        """FileNotFoundError if there is none, UserError naming it if it is damaged or of another kind."""
        self._name = f"{folder.described}/{name}"
        try:
            self._reader = pa.ipc.open_file(folder.open_locally(name))
            about = json.loads((self._reader.schema.metadata or {})[b"vgg.features"])
            if about["format"] != FORMAT:
                raise UserError(f"{self._name} has format {about['format']!r}, this version reads {FORMAT}")
            self.provenance = FeatureProvenance.from_json(about["provenance"])
            self.images, self.units = int(about["images"]), self._reader.schema.field("feature").type.list_size
        except FileNotFoundError:
            raise
        except (OSError, KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
            if isinstance(error, UserError):
                raise
            raise self._damaged(repr(error)) from error

    def blocks(self) -> Iterator[Features]:
        """In order. UserError if one is damaged, or some are missing."""
        read = 0
        for i in range(self._reader.num_record_batches):
            block = self._block(i)
            read += len(block.keys)
            yield block
        if read != self.images:
            raise self._damaged(f"{read:,} of {self.images:,} images")

    def all(self) -> Features:
        """All images in memory. UserError if one is damaged."""
        features_NF = np.empty((self.images, self.units), np.float32)
        keys: list[str] = []
        labels: list[tuple[int, ...]] = []
        difficult: list[tuple[int, ...]] = []
        for block in self.blocks():
            features_NF[len(keys) : len(keys) + len(block.keys)] = block.features_NF
            keys += block.keys
            labels += block.labels
            difficult += block.difficult
        return Features(tuple(keys), tuple(labels), tuple(difficult), features_NF)

    def _block(self, i: int) -> Features:
        try:
            found = self._reader.get_batch_with_custom_metadata(i)
            found.batch.validate(full=True)
            block = _features(found.batch)
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise self._damaged(repr(error)) from error
        if (found.custom_metadata or {}).get(b"sha256", b"").decode("ascii", "replace") != block.digest:
            raise self._damaged("its SHA-256 is not the one it was written with")
        return block

    def _damaged(self, reason: str) -> UserError:
        return UserError(f"{self._name} holds no features, or is damaged ({reason}): extract them again")


def _features(batch: pa.RecordBatch) -> Features:
    def classes(name: str) -> Labels:
        return tuple(tuple(each) for each in batch.column(name).to_pylist())

    values: Any = batch.column("feature").flatten().to_numpy(zero_copy_only=False)
    keys = tuple(batch.column("key").to_pylist())
    return Features(keys, classes("labels"), classes("difficult"), values.reshape(len(keys), -1).copy())
