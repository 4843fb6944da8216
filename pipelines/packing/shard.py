"""Packs one shard: writes the valid ones of its files, and a note that it is finished."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.packing.arrow_file import ShardWriter
from pipelines.packing.decode import Decoded
from pipelines.packing.packed_shard import PackedShard
from pipelines.packing.proof import proved_images
from pipelines.shards.boxes import Box, OwnBoxes, upright
from pipelines.shards.manifest import SkippedFile
from pipelines.shards.schema import LABELS, shard_schema, written_format
from pipelines.sources.source import SourceFile
from pipelines.storage.folder import Folder

NOTES = "packing"
"""Folder beside the shards with a note of each finished one, while a data set is being packed."""


@dataclass(frozen=True)
class ShardTask:
    """A shard to pack."""

    uri: str
    """Folder to write to."""
    name: str
    files: tuple[SourceFile, ...]
    labels: dict[str, int]
    """Class identifier -> label, `NO_CLASS` included."""
    in_segments: bool
    """Whether JPEG files are given restart markers."""
    several_labels: bool = False
    """Whether an image may be of several classes."""

    @property
    def schema(self) -> pa.Schema:
        """Of the shard's rows."""
        form = written_format(in_segments=self.in_segments, several_labels=self.several_labels)
        return shard_schema(form)


def pack_shard(task: ShardTask) -> PackedShard:
    """Pack one shard and write a note that it is finished. OSError if it cannot be written,
    UserError if a file of the source cannot be read."""
    folder, arrow_file = Folder(task.uri), f"{task.name}.arrow"
    statistics = _Statistics()
    skipped: list[SkippedFile] = []
    with folder.writing(arrow_file) as stream:
        writer = ShardWriter(stream, task.schema)
        for file, decoded in proved_images(task.files, task.in_segments):
            if isinstance(decoded, str):
                skipped.append(SkippedFile(file.split, file.key, decoded))
                continue
            label = task.labels[file.label]
            boxes = [upright(box, decoded.orientation, decoded.height, decoded.width) for box in file.boxes]
            row = {
                "key": file.key,
                "image": decoded.data,
                "label": label,
                "height": decoded.height,
                "width": decoded.width,
                "boxes": [box._asdict() for box in boxes],
            }
            if task.in_segments:
                row["segments"] = decoded.segments
            if task.several_labels:
                row |= {name: [task.labels[each] for each in getattr(file, name)] for name in LABELS}
            writer.add(row)
            statistics.add(file.label, label, decoded, boxes)
            statistics.images.update(file.labels)
        info = writer.close(arrow_file)
    if not info.rows:
        folder.delete_file(arrow_file)
    packed = PackedShard(
        info if info.rows else None,
        tuple(skipped),
        dict(statistics.images),
        statistics.pixels,
        tuple(map(float, statistics.sum_C)),
        tuple(tuple(map(float, row)) for row in statistics.products_CC),
        np.asarray(statistics.index, np.int32).tobytes(),
        statistics.transcoded,
        dict(statistics.kept),
        statistics.boxed,
        tuple(map(float, statistics.box_sum_4)),
    )
    folder.write(_note(task.name), packed.to_json().encode())
    return packed


def finished_shard(folder: Folder, name: str) -> PackedShard | None:
    """The note of a shard, if there is one and the shard has the size it states."""
    if not folder.exists(_note(name)):
        return None
    try:
        packed = PackedShard.from_json(folder.read(_note(name)))
    except (ValueError, KeyError, TypeError):  # packed again
        return None
    if packed.info is not None and folder.size(packed.info.file) != packed.info.bytes:
        return None
    return packed


class _Statistics:
    """Sums over the images of a shard, and their index rows. C = 3, RGB."""

    def __init__(self) -> None:
        self.images: Counter[str] = Counter()
        self.pixels, self.sum_C, self.products_CC = 0, np.zeros(3), np.zeros((3, 3))
        self.index: list[tuple[int, int, int]] = []
        self.transcoded, self.kept = 0, Counter[str]()
        self.boxed, self.box_sum_4 = 0, np.zeros(4)

    def add(self, class_identifier: str, label: int, image: Decoded, boxes: list[Box]) -> None:
        self.images[class_identifier] += 1
        self.index.append((label, image.height, image.width))
        if image.segments:
            self.transcoded += 1
        elif image.kept:
            self.kept[image.kept] += 1
        self.pixels += image.height * image.width
        self.sum_C += image.sum_C
        self.products_CC += image.products_CC
        (target_4,) = OwnBoxes.of_image(boxes, class_identifier, image.height, image.width).targets_N4
        if not np.isnan(target_4).any():
            self.boxed += 1
            self.box_sum_4 += target_4


def _note(name: str) -> str:
    return f"{NOTES}/{name}.json"
