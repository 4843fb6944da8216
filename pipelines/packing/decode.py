"""What packing learns of one file by decoding it whole."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from numba import njit
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 200_000_000
"""Larger images are set aside: decoded they would take more than 0.6 GB."""


FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM")
"""No others are tried: PIL would hand some to programs of the machine (EPS to Ghostscript)."""


JPEG = ("JPEG", "MPO")
"""MPO, a phone's JPEG with a preview behind it, reads as JPEG anywhere."""


_ORIENTATION = 0x0112  # EXIF tag


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
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=FORMATS) as image:
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
    except Exception as error:  # noqa: BLE001  # PIL's readers raise whatever their parsers stumble over
        return f"{type(error).__name__}: {error}"
    sum_C, products_CC = _moments(np.asarray(rgb).reshape(-1, 3))
    return Decoded(data, rgb.height, rgb.width, sum_C.astype(np.float64), products_CC.astype(np.float64))


@njit(nogil=True, cache=True)
def _moments(pixels_NC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the pixels and of their outer products, exact: int64 [3] and [3, 3]."""
    r = g = b = rr = rg = rb = gg = gb = bb = np.int64(0)
    for place in range(pixels_NC.shape[0]):
        x, y, z = np.int64(pixels_NC[place, 0]), np.int64(pixels_NC[place, 1]), np.int64(pixels_NC[place, 2])
        r, g, b = r + x, g + y, b + z
        rr, rg, rb = rr + x * x, rg + x * y, rb + x * z
        gg, gb, bb = gg + y * y, gb + y * z, bb + z * z
    return np.array([r, g, b]), np.array([[rr, rg, rb], [rg, gg, gb], [rb, gb, bb]])


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
