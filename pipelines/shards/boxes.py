"""Bounding boxes: as they are noted, turned with their image, and as fractions of it.

The rule for several and for none: of an image count the boxes of its own class, and those whose class the
source does not say. A training takes the largest of them, the first of equals; a test counts a prediction that
meets any. An image without one is left out of both. What exceeds the image is cut off; a box without area is
none.

Edges are taken as they are noted, from 0 at the left and the upper edge of the image.

Shapes: M boxes, N images; 4: xmin, ymin, xmax, ymax; 2: height, width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Box(NamedTuple):
    """A box as it is noted, in pixels of the image that it was noted for."""

    xmin: float
    ymin: float
    xmax: float
    ymax: float
    label: str = ""
    """Identifier of the object's class; empty where the source does not say it: the image's own."""
    height: int = 0
    """Of the image that the edges were noted for, which may be of another size than the one packed; 0, as
    `width`, where the source does not say it: the image's own."""
    width: int = 0


BOXES = pa.list_(
    pa.struct(
        [
            *((edge, pa.float32()) for edge in ("xmin", "ymin", "xmax", "ymax")),
            ("label", pa.string()),
            ("height", pa.int32()),
            ("width", pa.int32()),
        ]
    )
)
"""Arrow type of an image's boxes: lists of `Box`."""

EARLIER_BOXES = pa.list_(pa.list_(pa.float32(), 4))
"""That of earlier formats: the four edges, for the image's own class and size."""


def upright(box: Box, orientation: int, height: int, width: int) -> Box:
    """The box of an image that was turned by its EXIF orientation, 1 to 8, to `height` by `width` pixels.

    Edges are those of the file's pixels, unless the noted size says that they are of the image turned already:
    it is upright where the file's pixels lie on their side, or the other way round.
    """
    sideways = orientation in (5, 6, 7, 8)
    noted = box.height > 0 and box.width > 0
    if sideways and noted and height != width and (box.height > box.width) == (height > width):
        return box
    stored_height, stored_width = (width, height) if sideways else (height, width)
    high, wide = (box.height, box.width) if noted else (stored_height, stored_width)
    x0, x1, y0, y1 = box.xmin, box.xmax, box.ymin, box.ymax
    if orientation in (2, 3, 7, 8):
        x0, x1 = wide - x1, wide - x0
    if orientation in (3, 4, 6, 7):
        y0, y1 = high - y1, high - y0
    if not sideways:
        return box._replace(xmin=x0, xmax=x1, ymin=y0, ymax=y1)
    return Box(y0, x0, y1, x1, box.label, box.width, box.height)


def fractions(edges_M4: np.ndarray, noted_M2: np.ndarray, sizes_M2: np.ndarray) -> np.ndarray:
    """Boxes as fractions of their images, float64 [M, 4], cut off at the edges.

    `noted_M2`: sizes that they were noted for, 0 where unknown; `sizes_M2`: of the images as packed.
    """
    known_M1 = (noted_M2 > 0).all(1, keepdims=True)
    scale_M2 = np.where(known_M1, noted_M2, sizes_M2)
    return np.clip(np.asarray(edges_M4, np.float64) / scale_M2[:, [1, 0, 1, 0]], 0, 1)


def areas(boxes_M4: np.ndarray) -> np.ndarray:
    """Width by height, [M]; 0 of boxes whose edges are the wrong way round."""
    return np.maximum(boxes_M4[:, 2] - boxes_M4[:, 0], 0) * np.maximum(boxes_M4[:, 3] - boxes_M4[:, 1], 0)


@dataclass(frozen=True)
class OwnBoxes:
    """The boxes that count, of all images of a split."""

    images_M: np.ndarray
    """Index of each box's image, ascending, int64."""
    boxes_M4: np.ndarray
    """Fractions of the image, float64."""
    count: int
    """Images of the split, with boxes or without."""

    def of(self, image: int) -> np.ndarray:
        """Those of an image, [m, 4]."""
        first, stop = np.searchsorted(self.images_M, [image, image + 1])
        return self.boxes_M4[first:stop]

    @property
    def targets_N4(self) -> np.ndarray:
        """The box that a training takes of each image, float64; NaN of images without one."""
        targets_N4 = np.full((self.count, 4), np.nan)
        rounded_M = areas(self.boxes_M4).round(9)  # equals stay equals wherever they lie
        smallest_first = np.argsort(rounded_M[::-1], kind="stable")  # of equals the first comes last
        targets_N4[self.images_M[::-1][smallest_first]] = self.boxes_M4[::-1][smallest_first]
        return targets_N4

    @classmethod
    def counted(cls, images_M: np.ndarray, boxes_M4: np.ndarray, own_M: np.ndarray, count: int) -> "OwnBoxes":
        """Those of all boxes (as fractions) that are of their image's class and have an area."""
        kept_M = own_M & (areas(boxes_M4) > 0)
        return cls(images_M[kept_M], boxes_M4[kept_M], count)

    @classmethod
    def of_image(cls, boxes: Sequence[Box], label: str, height: int, width: int) -> "OwnBoxes":
        """Those of a single image of this class and size."""
        edges_M4 = np.array([box[:4] for box in boxes], np.float64).reshape(-1, 4)
        noted_M2 = np.array([(box.height, box.width) for box in boxes], np.int64).reshape(-1, 2)
        own_M = np.array([box.label in ("", label) for box in boxes], bool)
        boxes_M4 = fractions(edges_M4, noted_M2, np.broadcast_to([height, width], noted_M2.shape))
        return cls.counted(np.zeros(len(boxes), np.int64), boxes_M4, own_M, 1)

    @classmethod
    def of_column(
        cls, column: pa.ChunkedArray, labels_N: np.ndarray, sizes_N2: np.ndarray, classes: Sequence[str]
    ) -> "OwnBoxes":
        """Those of a shard's column `boxes`, whose images have these labels, below 0 for none, and sizes."""
        lists = column.combine_chunks()
        images_M = np.asarray(pc.list_parent_indices(lists), np.int64)
        flat = lists.flatten()
        if lists.type == EARLIER_BOXES:
            edges_M4 = np.asarray(flat.flatten(), np.float64).reshape(-1, 4)
            noted_M2, own_M = np.zeros((len(images_M), 2), np.int64), np.ones(len(images_M), bool)
        else:
            fields = {field.name: flat.field(field.name) for field in flat.type}
            edges_M4 = np.stack([np.asarray(fields[edge], np.float64) for edge in Box._fields[:4]], 1)
            noted_M2 = np.stack([np.asarray(fields[side], np.int64) for side in ("height", "width")], 1)
            labels_M = labels_N[images_M]
            own = pa.array(classes, pa.string()).take(pa.array(labels_M, mask=labels_M < 0))
            same = pc.or_kleene(pc.equal(fields["label"], own), pc.equal(fields["label"], ""))
            own_M = np.asarray(same.fill_null(False).to_numpy(zero_copy_only=False), bool)
        boxes_M4 = fractions(edges_M4, noted_M2, sizes_N2[images_M])
        return cls.counted(images_M, boxes_M4, own_M, len(labels_N))

    @classmethod
    def joined(cls, parts: Sequence["OwnBoxes"]) -> "OwnBoxes":
        """Those of consecutive parts of a split."""
        starts = np.cumsum([0, *(part.count for part in parts)])
        images = [part.images_M + start for part, start in zip(parts, starts, strict=False)]
        return cls(
            np.concatenate([np.empty(0, np.int64), *images]),
            np.concatenate([np.empty((0, 4)), *(part.boxes_M4 for part in parts)]),
            int(starts[-1]),
        )
