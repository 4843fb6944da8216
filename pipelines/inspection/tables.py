"""Tables that describe a packed data set: its splits and its classes.

Shapes: N images of a split, K classes.
"""

import numpy as np
from rich.markup import escape
from rich.table import Table

from pipelines.shards.manifest import Manifest
from pipelines.shards.reader import Shards
from pipelines.shards.schema import UNLABELLED

MAX_ROWS = 20


def split_table(manifest: Manifest, splits: dict[str, Shards]) -> Table:
    """One row per split: images, classes, shards, megabytes, and the range of heights and widths in pixels."""
    table = Table("split", title=f"{escape(manifest.source)}, {manifest.digest[:12]}", title_justify="left")
    for heading in ("images", "classes", "per class", "shards", "MB", "height", "width"):
        table.add_column(heading, justify="right")
    for name, shards in splits.items():
        images_K = _images_per_class(shards, manifest)
        files = manifest.splits[name].shards
        table.add_row(
            escape(name),
            f"{len(shards):,}",
            str(np.count_nonzero(images_K)),
            _value_range(images_K),
            str(len(files)),
            f"{sum(file.bytes for file in files) / 1e6:,.1f}",
            _value_range(shards.heights_N),
            _value_range(shards.widths_N),
        )
    return table


def class_table(manifest: Manifest, splits: dict[str, Shards]) -> Table:
    """One row per class, at most `MAX_ROWS`: label, identifier, name, and images in each split."""
    table = Table("label", "class", "name", title_justify="left")
    for name in splits:
        table.add_column(escape(name), justify="right")
    images_by_split = [_images_per_class(shards, manifest) for shards in splits.values()]
    for label, (identifier, name) in enumerate(zip(manifest.classes, manifest.class_names, strict=True)):
        if label == MAX_ROWS:
            table.caption = f"… of {len(manifest.classes)} classes"
            break
        counts = (f"{images_K[label]:,}" for images_K in images_by_split)
        table.add_row(str(label), escape(identifier), escape(name), *counts)
    return table


def _images_per_class(shards: Shards, manifest: Manifest) -> np.ndarray:
    labelled_N = shards.labels_N[shards.labels_N != UNLABELLED]
    return np.bincount(labelled_N, minlength=len(manifest.classes))


def _value_range(values: np.ndarray) -> str:
    """Minimum to maximum, or the single value."""
    if not len(values):
        return "-"
    least, most = int(values.min()), int(values.max())
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
