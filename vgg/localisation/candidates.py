"""Boxes that nets answered for images, before any merging, as one file a block of images.

An Arrow IPC file of {key, label, posterior, classes, boxes, scores}, one row per image; the schema's metadata
hold the identity of the test and a digest of everything.

Shapes: B images of a block, K classes, C classes that an image has boxes for, P places (of all scales and
mirrors; of each image its own number), c: C, or 1 where a net has one box for all classes; 4: xmin, ymin, xmax,
ymax as fractions of the image."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cli.errors import UserError
from pipelines.storage.folder import Folder

FORMAT = b"1"

_FLOATS = pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.int32()),
        ("posterior", _FLOATS),
        ("classes", pa.list_(pa.int32())),
        ("boxes", _FLOATS),
        ("scores", _FLOATS),
    ]
)


@dataclass(frozen=True)
class ImageBoxes:
    """The candidates of an image."""

    key: str
    label: int
    posterior_K: np.ndarray
    """Class probabilities, float32; none where the true class is given."""
    classes_C: np.ndarray
    """Classes that it has boxes for, int32, the most probable first; or the true one alone."""
    boxes_Pc4: np.ndarray
    """float32."""
    scores_PC: np.ndarray
    """Of these classes at these places, float32."""

    def of_class(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes [P, 4] and scores [P] of a class; none if it is not among `classes_C`."""
        places = np.flatnonzero(self.classes_C == label)
        if not len(places):
            return np.empty((0, 4), np.float32), np.empty(0, np.float32)
        column = 0 if self.boxes_Pc4.shape[1] == 1 else int(places[0])
        return self.boxes_Pc4[:, column], self.scores_PC[:, int(places[0])]


def write(folder: Folder, name: str, images: Sequence[ImageBoxes], identity: str) -> None:
    """Save a block under this name, atomically."""
    rows = [
        {
            "key": image.key,
            "label": image.label,
            "posterior": image.posterior_K,
            "classes": image.classes_C,
            "boxes": image.boxes_Pc4.reshape(-1),
            "scores": image.scores_PC.reshape(-1),
        }
        for image in images
    ]
    columns = [pa.array([row[field.name] for row in rows], field.type) for field in SCHEMA]
    batch = pa.record_batch(columns, schema=SCHEMA)
    metadata = {"vgg.boxes": FORMAT, "identity": identity, "sha256": _digest(batch)}
    file = io.BytesIO()
    with pa.ipc.new_file(file, SCHEMA.with_metadata(metadata)) as writer:
        writer.write_batch(batch)
    folder.write(name, file.getvalue())


def read(folder: Folder, name: str, identity: str) -> list[ImageBoxes]:
    """A block. UserError naming it if it is missing, damaged, or of another test."""
    file = f"{folder.described}/{name}"
    try:
        table = pa.ipc.open_file(pa.BufferReader(folder.read(name))).read_all()
        metadata = table.schema.metadata or {}
        if table.schema.remove_metadata() != SCHEMA or metadata.get(b"vgg.boxes") != FORMAT:
            raise UserError(f"{file} holds no boxes of this version: test again")
        table.validate(full=True)
        (batch,) = table.to_batches() or [pa.RecordBatch.from_pylist([], SCHEMA)]
    except FileNotFoundError as error:
        raise UserError(f"no file {file}: python -m vgg.localise evaluate leaves boxes") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{file} is damaged ({error}): test again") from error
    if metadata.get(b"sha256", b"").decode("ascii", "replace") != _digest(batch):
        raise UserError(f"{file} is damaged: its SHA-256 is not the one it was written with; test again")
    if metadata.get(b"identity", b"").decode("ascii", "replace") != identity:
        raise UserError(f"{file} is of another test: test again")
    return [_image(batch, i) for i in range(batch.num_rows)]


def _image(batch: pa.RecordBatch, i: int) -> ImageBoxes:
    def values(name: str) -> np.ndarray:
        return batch.column(name)[i].values.to_numpy(zero_copy_only=False)

    classes_C = values("classes")
    scores_PC = values("scores").reshape(-1, len(classes_C))
    boxes_Pc4 = values("boxes").reshape(len(scores_PC), -1, 4)
    label, key = batch.column("label")[i].as_py(), batch.column("key")[i].as_py()
    return ImageBoxes(key, label, values("posterior"), classes_C, boxes_Pc4, scores_PC)


def _digest(batch: pa.RecordBatch) -> str:
    """SHA-256 of the rows as Arrow writes them."""
    return hashlib.sha256(batch.serialize()).hexdigest()
