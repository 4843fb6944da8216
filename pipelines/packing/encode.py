"""Encodes pixels anew, for files that cannot be kept as they are.

Shapes: H and W sides in pixels, C = 3 (RGB).
"""

import io

import numpy as np
from PIL import Image

TOLERANCE_LEVELS = 3
"""Largest difference of a channel, of 255, at which a pixel counts as unchanged."""

UNCHANGED_SHARE = 0.99
"""Least share of unchanged pixels in a file that is encoded with loss."""

QUALITIES = (95, 98, 100)
"""Qualities of JPEG that are tried, smallest file first, before PNG."""


def encode(pixels_HWC: np.ndarray, *, photograph: bool) -> bytes:
    """The pixels as a file: a photograph as a JPEG that leaves 99 % of them unchanged, else a PNG."""
    image = Image.fromarray(pixels_HWC)
    for quality in QUALITIES if photograph else ():
        data = _saved(image, "JPEG", quality=quality, subsampling=0)  # 0: colours at full resolution
        if (differences(shown(data), pixels_HWC) <= TOLERANCE_LEVELS).mean() >= UNCHANGED_SHARE:
            return data
    return _saved(image, "PNG")


def shown(data: bytes) -> np.ndarray:
    """The pixels of a file that `encode` made, uint8 [H, W, C]."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def differences(one_HWC: np.ndarray, other_HWC: np.ndarray) -> np.ndarray:
    """Largest difference of a channel of each pixel, uint8 [H, W]."""
    return (np.maximum(one_HWC, other_HWC) - np.minimum(one_HWC, other_HWC)).max(2)


def _saved(image: Image.Image, form: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()
