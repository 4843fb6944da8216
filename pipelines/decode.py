"""What packing learns of one file by decoding it whole."""

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 200_000_000
"""Larger images are set aside: decoded they would take more than 0.6 GB."""

_ORIENTATION = 0x0112  # EXIF tag
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
    zlib.error,
    EOFError,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Decoded:
    """A sound image, and the sums over its pixels that mean and covariance are made of."""

    data: bytes
    height: int
    width: int
    sum_C: np.ndarray
    """float64 [3]: sum of the RGB pixels."""
    products_CC: np.ndarray
    """float64 [3, 3]: sum of the outer products of the RGB pixels."""


def decode(data: bytes) -> Decoded | str:
    """The image of a file, or why there is none.

    JPEG and 8-bit PNG files are kept as they are. A rotation noted in EXIF is carried out, since readers of
    regions ignore it; other formats are written as PNG.
    """
    if not data:
        return "the file is empty"
    Image.MAX_IMAGE_PIXELS = None  # checked here, before anything is decoded
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                return f"{image.width}×{image.height} pixels are more than {MAX_PIXELS:,}"
            image.load()
            rotated = image.getexif().get(_ORIENTATION, 1) != 1
            as_it_is = image.format == "JPEG" or (image.format == "PNG" and image.mode in ("RGB", "L"))
            upright = ImageOps.exif_transpose(image) if rotated else image
            rgb = _to_rgb(upright)
            if rotated or not as_it_is:
                file = io.BytesIO()
                kind = "JPEG" if image.format == "JPEG" else "PNG"
                rgb.save(file, kind, quality=95)
                data = file.getvalue()
    except _BROKEN as error:
        return f"{type(error).__name__}: {error}"
    pixels_NC = np.asarray(rgb).reshape(-1, 3).astype(np.float64)
    return Decoded(data, rgb.height, rgb.width, pixels_NC.sum(0), pixels_NC.T @ pixels_NC)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image).astype(np.float64)  # 16 bits a channel, which PIL would clip to 8
        return Image.fromarray(np.clip(values / 257, 0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
