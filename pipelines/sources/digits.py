"""The embedded data set: scikit-learn's handwritten digits."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipelines.sources.entries import Embedded, Entry, Source, choose


def digits_source(classes: Sequence[str]) -> Source:
    """Scikit-learn's 1797 handwritten digits, four times enlarged, as JPEG files; every fifth of a class is
    held out."""
    from sklearn.datasets import load_digits

    data = load_digits()
    chosen = choose([str(digit) for digit in range(10)], classes)
    entries: dict[str, list[Entry]] = {"train": [], "val": []}
    for label in chosen:
        for place, index in enumerate(np.flatnonzero(data.target == int(label))):
            pixels = (data.images[index] * (255 / 16)).round().astype(np.uint8)
            image = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR)
            file = io.BytesIO()
            image.convert("RGB").save(file, "JPEG", quality=95)
            split = "val" if place % 5 == 0 else "train"
            key = f"{split}/{label}/{index:04d}.jpg"
            entries[split].append(Entry(split, key, label, Embedded(file.getvalue())))
    return Source("scikit-learn handwritten digits", chosen, {}, entries["train"] + entries["val"])
