"""Options of a packing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class PackOptions:
    """Pack a data set into Arrow shards. The same command resumes a packing that was interrupted."""

    source: tyro.conf.Positional[str]
    """`digits`, an image folder, Tiny ImageNet's archive or folder, a folder of ILSVRC-2012's archives, a
    year's folder of PASCAL VOC, or its ImageSets/Action."""
    out: tyro.conf.Positional[str | Path]
    """Folder to create, or a URI such as s3://bucket/data."""
    classes: tuple[str, ...] = ()
    """Pack only these classes, or, if it is one number N, the first N."""
    val_share: float = 0.1
    """Share of each class's images held out for validation if the source has no splits: at least one of two."""
    holdout_share: float = 0.0
    """Share of each class's training images kept apart as the split `holdout`: trainings validate on it, and
    nothing is chosen by `val`. 0: none, trainings validate on `val`."""
    shard_mb: int = 64
    """Size of a shard in MB; each is packed by one process."""
    workers: int | None = None
    """Processes, or concurrent tasks on a cluster. Default: the number of cores."""
    ray: str | None = None
    """Address of a Ray cluster to pack on, `auto` for the one of this machine. All of its nodes must reach
    SOURCE and OUT. Default: processes of this machine."""
    segments: Literal["on", "off"] = "on"
    """on: JPEG files are given restart markers, without loss, so that a crop is decoded from its own part of
    the file; they grow by some 3 %. off: they are packed as they are."""
    overwrite: bool = False
    """Replace a packed data set at OUT."""
