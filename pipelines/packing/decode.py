"""Decodes a source's image file once, to validate it, and encodes anew what is not kept as it is."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from numba import njit
from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.packing.encode import encode
from pipelines.packing.rgb import to_rgb

MAX_PIXELS = 200_000_000
"""Larger images are skipped: decoded they would take more than 0.6 GB."""


MAX_ELONGATION = 32
"""Images whose longer side is more times the shorter are skipped: the dense protocol rescales the shorter side
to 512, and the first of VGG's feature maps would take more than 2.1 GB."""


FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM")
"""The only formats that are read: for others PIL may run programs of the machine (EPS: Ghostscript)."""


JPEG = ("JPEG", "MPO")
"""An MPO, a phone's JPEG followed by a preview, is read as a JPEG by any decoder."""


_ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True)
class Decoded:
    """A valid image, and the sums over its pixels from which mean and covariance are computed. C = 3, RGB."""

    data: bytes
    """The encoded file to pack."""
    height: int
    width: int
    sum_C: np.ndarray
    """float64: sum of the pixels."""
    products_CC: np.ndarray
    """float64: sum of the pixels' outer products."""
    pixels_HWC: np.ndarray
    """uint8: what a reader of the file should see."""
    photograph: bool
    """Whether the source's file is a JPEG."""
    segments: bytes = b""
    """uint16: bytes of each restart interval of `data`, if it was transcoded."""
    kept: str = ""
    """Why it was not, if that was tried."""
    orientation: int = 1
    """The EXIF orientation that was applied, 1 to 8."""


def decode(data: bytes) -> Decoded | str:
    """The image of a file, or the reason why it is skipped.

    JPEG and 8-bit PNG files are kept byte for byte, unless their headers have a fault that PIL ignores and
    another decoder fails or crashes on. An EXIF rotation that PIL sees is applied, readers apply none; other
    formats are converted to PNG.
    """
    if not data:
        return "the file is empty"
    Image.MAX_IMAGE_PIXELS = None  # checked here, before anything is decoded
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return f"{image.width}×{image.height} pixels are more than {MAX_PIXELS:,}"
            if max(image.size) > MAX_ELONGATION * min(image.size):
                return f"{image.width}×{image.height} pixels: one side is over {MAX_ELONGATION} times the other"
            image.load()
            photograph = image.format in JPEG
            orientation = image.getexif().get(_ORIENTATION, 1)
            rotated = orientation in range(2, 9)
            keep = (photograph and _has_valid_header(data)) or (
                image.format == "PNG" and image.mode in ("RGB", "L") and "icc_profile" not in image.info
            )
            upright = ImageOps.exif_transpose(image) if rotated else image
            pixels_HWC = np.asarray(to_rgb(upright))
            if rotated or not keep:
                data = encode(pixels_HWC, photograph=photograph)
    except UnidentifiedImageError:  # its message holds a memory address
        return "no image of a known format"
    except Exception as error:  # noqa: BLE001  # PIL's parsers raise errors of any type
        return f"{type(error).__name__}: {error}"
    height, width, _ = pixels_HWC.shape
    sum_C, products_CC = _moments(pixels_HWC.reshape(-1, 3))
    sums = sum_C.astype(np.float64), products_CC.astype(np.float64)
    turned_by = int(orientation) if rotated else 1
    return Decoded(data, height, width, *sums, pixels_HWC, photograph, orientation=turned_by)


@njit(nogil=True, cache=True)
def _moments(pixels_NC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact sums of the pixels and of their outer products: int64 [3] and [3, 3]."""
    r = g = b = rr = rg = rb = gg = gb = bb = np.int64(0)
    for i in range(pixels_NC.shape[0]):
        x, y, z = np.int64(pixels_NC[i, 0]), np.int64(pixels_NC[i, 1]), np.int64(pixels_NC[i, 2])
        r, g, b = r + x, g + y, b + z
        rr, rg, rb = rr + x * x, rg + x * y, rb + x * z
        gg, gb, bb = gg + y * y, gb + y * z, bb + z * z
    return np.array([r, g, b]), np.array([[rr, rg, rb], [rg, gg, gb], [rb, gb, bb]])


def _has_valid_header(jpeg: bytes) -> bool:
    """Whether a JPEG file has nothing between its markers up to the first scan (ITU-T T.81, B.1.1).

    PIL skips such bytes; DALI 2.4 rejects the file, or crashes if it is in a batch with others.
    """
    offset = 2
    while jpeg[offset : offset + 1] == b"\xff":
        while jpeg[offset + 1 : offset + 2] == b"\xff":  # fill bytes
            offset += 1
        if jpeg[offset + 1 : offset + 2] == b"\xda":
            return True
        offset += 2 + int.from_bytes(jpeg[offset + 2 : offset + 4], "big")
    return False
