"""An independent executor of draws: PIL and NumPy, whole images, one at a time."""

import io

import numpy as np
from PIL import Image


def crop(file: bytes, scaled_height: int, scaled_width: int, top: int, left: int, mirror: bool, side: int):
    """The crop as uint8 [side, side, 3]: decode all of the file, rescale all of it, cut, mirror."""
    image = Image.open(io.BytesIO(file)).convert("RGB")
    if image.size != (scaled_width, scaled_height):
        image = image.resize((scaled_width, scaled_height), Image.Resampling.BILINEAR)
    pixels_HWC = np.asarray(image)[top : top + side, left : left + side]
    return pixels_HWC[:, ::-1] if mirror else pixels_HWC


def crops(shards, images_B, draws, side):
    """Crops of a batch of draws, uint8 [B, side, side, 3]."""
    return np.stack(
        [
            crop(
                shards.encoded(int(image)).tobytes(),
                int(draws.scaled_height_B[i]),
                int(draws.scaled_width_B[i]),
                int(draws.top_B[i]),
                int(draws.left_B[i]),
                bool(draws.mirror_B[i]),
                side,
            )
            for i, image in enumerate(images_B)
        ]
    )
