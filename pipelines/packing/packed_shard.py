"""The note of a finished shard, from which the manifest is made and an interrupted packing resumes."""

import json
from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass

from pipelines.shards.manifest import ShardInfo, SkippedFile


@dataclass(frozen=True)
class PackedShard:
    """What the packing of a shard produced. C = 3, RGB."""

    info: ShardInfo | None
    """None if none of its files could be packed."""
    skipped: tuple[SkippedFile, ...]
    """`set_aside` in JSON."""
    images: dict[str, int]
    """Class identifier -> number of packed images."""
    pixels: int
    sum_C: tuple[float, ...]
    """Sum of the pixels."""
    products_CC: tuple[tuple[float, ...], ...]
    """Sum of the pixels' outer products."""
    index: bytes
    """int32 [images, 3]: label, height and width of each image."""
    transcoded: int
    """Files that were given restart markers."""
    kept: dict[str, int]
    """Reason -> files that were packed as they are."""
    boxed: int
    """Images with a box that counts; see `pipelines.shards.boxes`."""
    box_sum: tuple[float, ...]
    """Sum of the boxes that a training takes, as fractions of their images."""

    def to_json(self) -> str:
        """JSON that keeps every float exactly."""
        fields = {**asdict(self), "index": b64encode(self.index).decode()}
        fields["set_aside"] = fields.pop("skipped")
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str | bytes) -> "PackedShard":
        """ValueError, KeyError or TypeError if the text is not from `to_json`."""
        raw = json.loads(text)
        info = raw["info"]
        return cls(
            ShardInfo(**info) if info else None,
            tuple(SkippedFile(**skipped) for skipped in raw["set_aside"]),
            raw["images"],
            raw["pixels"],
            tuple(raw["sum_C"]),
            tuple(map(tuple, raw["products_CC"])),
            b64decode(raw["index"]),
            raw["transcoded"],
            raw["kept"],
            raw["boxed"],
            tuple(raw["box_sum"]),
        )
