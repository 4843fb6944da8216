"""JPEG files of many kinds, made with PIL and changed byte by byte where PIL cannot make them."""

import io
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from tests.photos import picture

SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1", "grey")

needs_jpegtran = pytest.mark.skipif(
    shutil.which("jpegtran") is None, reason="the reference is jpegtran: apt-get install libjpeg-turbo-progs"
)


def jpegtran(data: bytes, *options: str) -> bytes:
    """The file as jpegtran writes it, without comments and application data."""
    return subprocess.run(
        ["jpegtran", "-copy", "none", *options], input=data, capture_output=True, check=True
    ).stdout


def pixels(data: bytes) -> np.ndarray:
    """What PIL shows, uint8 [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def photograph(height: int, width: int, sampling: str = "4:2:0", seed: int = 0, **options) -> bytes:
    """A JPEG file of this size and chroma sampling; 4:4:0 and 4:1:1 are never progressive."""
    if sampling in ("4:4:0", "4:1:1"):
        options["progressive"] = False
    if sampling == "4:4:0":  # PIL cannot: the MCUs of a file that lies on its side
        return _resampled(photograph(width, height, "4:2:2", seed, **options), height, width, 0x12)
    if sampling == "4:1:1":
        whole = photograph(16 * -(-height // 8), 16 * -(-width // 32), "4:2:0", seed, **options)
        return _resampled(whole, height, width, 0x41)
    file = io.BytesIO()
    image = picture(height, width, "L" if sampling == "grey" else "RGB", seed)
    if sampling != "grey":
        options["subsampling"] = sampling
    image.save(file, "JPEG", **{"quality": 85, **options})
    return file.getvalue()


def frame(data: bytes) -> int:
    """Offset of the frame header."""
    at = 2
    while data[at + 1] not in (0xC0, 0xC1, 0xC2):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at


def _resampled(data: bytes, height: int, width: int, sampling: int) -> bytes:
    """The same entropy-coded data, as MCUs of another shape: a picture in pieces, but a valid file."""
    at, changed = frame(data), bytearray(data)
    changed[at + 5 : at + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    changed[at + 11] = sampling
    return bytes(changed)
