"""A box through the draws of its image: scale, crop and mirror, and back.

Shapes: B images; 4: xmin, ymin, xmax, ymax.
"""

import numpy as np

from pipelines.loading.draw import Draws


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
