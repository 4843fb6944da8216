"""Images of every mode in RGB, the same where they are packed and where they are predicted."""

import numpy as np
from PIL import Image


def to_rgb(image: Image.Image) -> Image.Image:
    """In 8 bits a channel: of 16 the upper ones, where PIL would clip. PIL's errors for a broken file."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.clip(values / 257, 0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
