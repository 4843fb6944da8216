"""Packs one shard, a task of its own: reads its entries, decodes each, writes the valid ones."""

import json
from base64 import b64decode, b64encode
from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np

from pipelines.packing.arrow_file import ShardWriter
from pipelines.packing.decode import Decoded, decode
from pipelines.shards.manifest import SetAside, ShardInfo
from pipelines.sources.entries import Entry
from pipelines.storage.folder import Folder

NOTES = "packing"
"""Folder beside the shards, with a note of each that is done, while a data set is being packed."""


@dataclass(frozen=True)
class ShardTask:
    """What one shard is made of."""

    uri: str
    """Folder to write to."""
    name: str
    entries: tuple[Entry, ...]
    labels: dict[str, int]
    """Class -> its number."""


@dataclass(frozen=True)
class PackedShard:
    """What was learnt by packing it."""

    info: ShardInfo | None
    """None where nothing of it could be packed."""
    set_aside: tuple[SetAside, ...]
    images: dict[str, int]
    """Class -> images that were packed."""
    pixels: int
    sum_C: tuple[float, ...]
    products_CC: tuple[tuple[float, ...], ...]
    index: bytes
    """int32 [images, 3]: label, height and width of each image."""

    def to_json(self) -> str:
        """Floats survive it to the last bit."""
        return json.dumps({**asdict(self), "index": b64encode(self.index).decode()})

    @classmethod
    def from_json(cls, text: str | bytes) -> "PackedShard":
        """ValueError, KeyError or TypeError where the text is not from `to_json`."""
        raw = json.loads(text)
        info = raw["info"]
        return cls(
            ShardInfo(**info) if info else None,
            tuple(SetAside(**entry) for entry in raw["set_aside"]),
            raw["images"],
            raw["pixels"],
            tuple(raw["sum_C"]),
            tuple(map(tuple, raw["products_CC"])),
            b64decode(raw["index"]),
        )


def pack_shard(task: ShardTask) -> PackedShard:
    """Pack one shard and leave a note that it is done. OSError where it cannot be written."""
    folder, file = Folder(task.uri), f"{task.name}.arrow"
    set_aside: list[SetAside] = []
    images: Counter[str] = Counter()
    index: list[tuple[int, int, int]] = []
    pixels, sum_C, products_CC = 0, np.zeros(3), np.zeros((3, 3))
    info = None
    with folder.writing(file) as stream:
        writer = ShardWriter(stream)
        for entry in task.entries:
            decoded = _read(entry)
            if isinstance(decoded, str):
                set_aside.append(SetAside(entry.split, entry.key, decoded))
                continue
            writer.add(
                {
                    "key": entry.key,
                    "image": decoded.data,
                    "label": task.labels[entry.label],
                    "height": decoded.height,
                    "width": decoded.width,
                    "boxes": entry.boxes,
                }
            )
            images[entry.label] += 1
            index.append((task.labels[entry.label], decoded.height, decoded.width))
            pixels += decoded.height * decoded.width
            sum_C += decoded.sum_C
            products_CC += decoded.products_CC
        info = writer.close(file)
    if not info.rows:
        folder.delete_file(file)
        info = None
    products = tuple(tuple(map(float, row)) for row in products_CC)
    packed = PackedShard(
        info,
        tuple(set_aside),
        dict(images),
        pixels,
        tuple(map(float, sum_C)),
        products,
        np.asarray(index, np.int32).tobytes(),
    )
    folder.write(f"{NOTES}/{task.name}.json", packed.to_json().encode())
    return packed


def _read(entry: Entry) -> Decoded | str:
    try:
        data = entry.place.read()
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return decode(data)


def finished_shard(folder: Folder, name: str) -> PackedShard | None:
    """What is noted of a shard, if it is there as the note says."""
    note = f"{NOTES}/{name}.json"
    if not folder.exists(note):
        return None
    try:
        packed = PackedShard.from_json(folder.read(note))
    except (ValueError, KeyError, TypeError):  # packed again
        return None
    if packed.info is not None and folder.size(packed.info.file) != packed.info.bytes:
        return None
    return packed
