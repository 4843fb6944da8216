"""The file that is decoded for a region: a small JPEG of the segments that show it, where there are segments.

Shapes: B images of a batch.
"""

from dataclasses import dataclass

import numpy as np

from pipelines.jpeg.segments import assemble
from pipelines.shards.reader import Shards


@dataclass(frozen=True)
class RegionFiles:
    """Files to decode, and where the regions lie in them."""

    files: list[np.ndarray]
    """uint8: views of `memory`, and of the shards for files that are decoded as they are."""
    anchor_B2: np.ndarray
    """(y, x) of the regions in pixels of `files`."""
    memory: np.ndarray
    """Of the assembled files; to be given to a later call once they have been decoded."""


def assembled(
    shards: Shards,
    images_B: np.ndarray,
    anchor_B2: np.ndarray,
    shape_B2: np.ndarray,
    memory: np.ndarray | None = None,
) -> RegionFiles:
    """The files to decode for a region of each image: corner and shape, (y, x) in whole pixels of the image.

    `memory`: of an earlier call, overwritten if it is large enough: new memory is cleared page by page.
    """
    found = [shards.encoded_in_segments(int(image)) for image in images_B]
    needed = sum(len(file) for file, lengths in found if len(lengths))
    if memory is None or len(memory) < needed:
        memory = np.empty(needed + needed // 4, np.uint8)
    files, origin_B2, to = [], np.zeros_like(anchor_B2), 0
    corners, ends = anchor_B2.astype(np.int64).tolist(), (anchor_B2 + shape_B2).astype(np.int64).tolist()
    for row, (file, lengths) in enumerate(found):
        size = 0
        if len(lengths):
            (top, left), (bottom, right) = corners[row], ends[row]
            size, *origin_B2[row] = assemble(file, lengths, top, left, bottom, right, memory[to:])
        files.append(memory[to : to + size] if size else file)
        to += size
    return RegionFiles(files, anchor_B2 - origin_B2, memory)
