"""The embedded data set: scikit-learn's handwritten digits."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipelines.sources.selection import select_classes
from pipelines.sources.source import InlineData, Source, SourceFile


def digits_source(classes: Sequence[str]) -> Source:
    """The 1797 digits, upscaled from 8×8 to 32×32 pixels, as JPEG files; every fifth of a class is held out."""
    from sklearn.datasets import load_digits

    data = load_digits()
    selected = select_classes([str(digit) for digit in range(10)], classes)
    files: dict[str, list[SourceFile]] = {"train": [], "val": []}
    for label in selected:
        for position, index in enumerate(np.flatnonzero(data.target == int(label))):
            pixels = (data.images[index] * (255 / 16)).round().astype(np.uint8)
            image = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR)
            jpeg = io.BytesIO()
            image.convert("RGB").save(jpeg, "JPEG", quality=95)
            split = "val" if position % 5 == 0 else "train"
            key = f"{split}/{label}/{index:04d}.jpg"
            files[split].append(SourceFile(split, key, label, InlineData(jpeg.getvalue())))
    return Source("scikit-learn handwritten digits", selected, {}, files["train"] + files["val"])
