"""What a packing is asked to do."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class PackOptions:
    """Pack a data set into Arrow shards. The same command goes on with a packing that was interrupted."""

    source: tyro.conf.Positional[str]
    """`digits`, an image folder, Tiny ImageNet's archive or folder, or a folder of ILSVRC-2012's archives."""
    out: tyro.conf.Positional[str | Path]
    """Folder to make, or a URI such as s3://bucket/data."""
    classes: tuple[str, ...] = ()
    """Only these classes, or one number: only the first so many."""
    val_share: float = 0.1
    """Share of the images held out where the source has no splits."""
    shard_mb: int = 64
    """Size of a shard in MB; each is packed by one process."""
    workers: int | None = None
    """Processes that decode, or tasks at a time on a cluster. Default: as many as there are cores."""
    ray: str | None = None
    """Address of a Ray cluster to pack on, `auto` for the one of this machine. SOURCE and OUT must be the same
    on all of its nodes. Default: processes of this machine."""
    overwrite: bool = False
    """Replace a packed data set at OUT."""
