"""A box through the draws of its image: scale, crop and mirror, and back; the part of an image within it.

Shapes: B and N images; 4: xmin, ymin, xmax, ymax, or top, left, height, width of a part.
"""

import numpy as np

from pipelines.loading.draw import Augment, Draws, rescaled


def to_crop(boxes_B4: np.ndarray, draws: Draws, side: int) -> np.ndarray:
    """Boxes as fractions of the crop, float64, of boxes as fractions of their images.

    They are not cut off: a box that exceeds the crop has edges below 0 or above 1.
    """
    scaled_B4, corner_B4 = _scaled_and_corner(draws)
    inside_B4 = (boxes_B4 * scaled_B4 - corner_B4) / side
    return _mirrored(inside_B4, draws.mirror_B)


def from_crop(boxes_B4: np.ndarray, draws: Draws, side: int) -> np.ndarray:
    """The inverse of `to_crop`."""
    scaled_B4, corner_B4 = _scaled_and_corner(draws)
    return (_mirrored(boxes_B4, draws.mirror_B) * side + corner_B4) / scaled_B4


def mean_in_crops(
    boxes_N4: np.ndarray, heights_N: np.ndarray, widths_N: np.ndarray, augment: Augment
) -> np.ndarray:
    """`to_crop` of each image's box, averaged over all scales, corners and mirrorings that it may draw."""
    sum_N4 = np.zeros_like(boxes_N4)
    for scale in range(augment.min_scale, augment.max_scale + 1):
        height_N, width_N = rescaled(heights_N, widths_N, np.full(len(heights_N), scale))
        scaled_N4 = np.stack([width_N, height_N, width_N, height_N], 1).astype(np.float64)
        sum_N4 += (boxes_N4 * scaled_N4 - (scaled_N4 - augment.side) / 2) / augment.side
    mean_N4 = sum_N4 / (augment.max_scale + 1 - augment.min_scale)
    if augment.mirror:
        mean_N4 = (mean_N4 + _mirrored(mean_N4, np.ones(len(mean_N4), bool))) / 2
    return mean_N4


def parts(boxes_B4: np.ndarray, heights_B: np.ndarray, widths_B: np.ndarray) -> np.ndarray:
    """What images of these sizes show within boxes, as fractions of them: top, left, height, width, int64.

    Edges are rounded to whole pixels; a part has at least one each way.
    """
    sizes_B4 = np.stack([heights_B, widths_B, heights_B, widths_B], 1).astype(np.int64)
    edges_B4 = np.rint(boxes_B4[:, [1, 0, 3, 2]] * sizes_B4).astype(np.int64)
    corners_B2 = np.minimum(edges_B4[:, :2], sizes_B4[:, :2] - 1)
    return np.concatenate([corners_B2, np.maximum(edges_B4[:, 2:] - corners_B2, 1)], 1)


def _mirrored(boxes_B4: np.ndarray, mirror_B: np.ndarray) -> np.ndarray:
    """Left and right swapped where `mirror_B` says so."""
    flipped_B4 = np.stack([1 - boxes_B4[:, 2], boxes_B4[:, 1], 1 - boxes_B4[:, 0], boxes_B4[:, 3]], 1)
    return np.where(mirror_B[:, None], flipped_B4, boxes_B4)


def _scaled_and_corner(draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Sides of the rescaled images and corners of the crops, each as (x, y, x, y), in pixels."""
    xyxy = [1, 0, 1, 0]
    scaled_B2 = np.stack([draws.scaled_height_B, draws.scaled_width_B], 1)
    corner_B2 = np.stack([draws.top_B, draws.left_B], 1)
    return scaled_B2[:, xyxy].astype(np.float64), corner_B2[:, xyxy].astype(np.float64)
