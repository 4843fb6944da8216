"""The formats of a packed data set, and the columns of its files."""

import pyarrow as pa

from pipelines.shards.boxes import BOXES, EARLIER_BOXES

FORMAT, SEGMENTS_FORMAT = 3, 4
"""Formats of a packed data set: files as they are, and JPEG files with restart markers."""

EARLIER_FORMATS = 1, 2
"""The same, read but no longer written: boxes have no class and no size, and no manifest counts them."""

SEVERAL_FORMAT, SEVERAL_SEGMENTS_FORMAT = 5, 6
"""`FORMAT` and `SEGMENTS_FORMAT` of images that may be of several classes: with the columns `LABELS`."""

FORMATS = *EARLIER_FORMATS, FORMAT, SEGMENTS_FORMAT, SEVERAL_FORMAT, SEVERAL_SEGMENTS_FORMAT

IN_SEGMENTS = 2, SEGMENTS_FORMAT, SEVERAL_SEGMENTS_FORMAT
SEVERAL = SEVERAL_FORMAT, SEVERAL_SEGMENTS_FORMAT


SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("image", pa.binary()),
        ("label", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("boxes", BOXES),
    ]
)
"""Schema of a shard. image: the encoded file. boxes: see `pipelines.shards.boxes.Box`."""


SEGMENTS_SCHEMA = SCHEMA.append(pa.field("segments", pa.binary()))
"""Schema of a shard in `SEGMENTS_FORMAT`. segments: the bytes of each restart interval of `image`, with the two
of the marker that ends it, uint16, little-endian; empty for a file that was packed as it is."""


UNLABELLED = -1
"""Label of an image whose class is not known: of a split that can only be predicted."""


LABELS = ("labels", "difficult")
"""Columns of an image that may be of several classes, whose `label` is `UNLABELLED`: its classes, and those of
which it has hard objects alone, which count neither for nor against; lists of indices into the classes."""


INDEX = pa.schema([("label", pa.int32()), ("height", pa.int32()), ("width", pa.int32())])
"""Schema of a split's index file: what a reader needs of all images before it opens a shard."""


def written_format(*, in_segments: bool, several_labels: bool) -> int:
    """The format of a data set that is packed now."""
    if several_labels:
        return SEVERAL_SEGMENTS_FORMAT if in_segments else SEVERAL_FORMAT
    return SEGMENTS_FORMAT if in_segments else FORMAT


def shard_schema(version: int) -> pa.Schema:
    """Of the shards of a data set of this format."""
    schema = SEGMENTS_SCHEMA if version in IN_SEGMENTS else SCHEMA
    if version in SEVERAL:
        for name in LABELS:
            schema = schema.append(pa.field(name, pa.list_(pa.int32())))
    if version in EARLIER_FORMATS:
        return schema.set(schema.get_field_index("boxes"), pa.field("boxes", EARLIER_BOXES))
    return schema
