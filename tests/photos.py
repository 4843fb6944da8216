"""Pictures made up for tests."""

import numpy as np
from PIL import Image


def picture(height, width, mode="RGB", seed=0):
    """Smooth colours with sharp edges, and some noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).resize((width, height), 2)
    pixels = np.asarray(coarse).astype(float) + rng.normal(0, 6, (height, width, 3))
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (250, 20, 30)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert(mode)
