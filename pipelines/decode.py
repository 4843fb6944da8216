"""What packing learns of one file by decoding it whole."""

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 200_000_000
"""Larger images are set aside: decoded they would take more than 0.6 GB."""

JPEG = ("JPEG", "MPO")
"""MPO, a phone's JPEG with a preview behind it, reads as JPEG anywhere."""
BLOCK = 2**16  # pixels that are summed at once

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

    JPEG and 8-bit PNG files are kept as they are, unless a fault in their headers that PIL passes over would
    end or crash another decoder. A rotation noted in EXIF is carried out, so that no reader has to know of it;
    other formats are written as PNG.
    """
    if not data:
        return "the file is empty"
    Image.MAX_IMAGE_PIXELS = None  # checked here, before anything is decoded
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                return f"{image.width}×{image.height} pixels are more than {MAX_PIXELS:,}"
            image.load()
            rotated = image.getexif().get(_ORIENTATION, 1) in range(2, 9)
            as_it_is = (image.format in JPEG and _sound_header(data)) or (
                image.format == "PNG" and image.mode in ("RGB", "L") and "icc_profile" not in image.info
            )
            upright = ImageOps.exif_transpose(image) if rotated else image
            rgb = _to_rgb(upright)
            if rotated or not as_it_is:
                file = io.BytesIO()
                kind = "JPEG" if image.format in JPEG else "PNG"
                rgb.save(file, kind, quality=95)
                data = file.getvalue()
    except UnidentifiedImageError:  # its own text holds an address in memory
        return "no image of a known format"
    except _BROKEN as error:
        return f"{type(error).__name__}: {error}"
    pixels_NC = np.asarray(rgb).reshape(-1, 3)
    sum_C, products_CC = np.zeros(3), np.zeros((3, 3))
    for first in range(0, len(pixels_NC), BLOCK):  # a whole image as float64 would take eight times its size
        block_NC = pixels_NC[first : first + BLOCK].astype(np.float64)
        sum_C += block_NC.sum(0)
        products_CC += block_NC.T @ block_NC
    return Decoded(data, rgb.height, rgb.width, sum_C, products_CC)


def _sound_header(jpeg: bytes) -> bool:
    """Whether marker follows marker from the start of a JPEG file to its first scan (ITU-T T.81, B.1.1).

    PIL skips what lies between them; DALI 2.4 rejects such a file, and in a batch of others crashes on it.
    """
    place = 2
    while jpeg[place : place + 1] == b"\xff":
        while jpeg[place + 1 : place + 2] == b"\xff":  # fill bytes
            place += 1
        if jpeg[place + 1 : place + 2] == b"\xda":
            return True
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return False


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image).astype(np.float64)  # 16 bits a channel, which PIL would clip to 8
        return Image.fromarray(np.clip(values / 257, 0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
