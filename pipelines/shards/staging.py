"""Brings a packed data set from an object store to this machine's disk.

    under a lock that the processes of a machine share, so that one of them fetches and the others wait:
        mark the data set as in use by this process
        make room within the budget by removing unused data sets, the least recently used first
        fetch the files in parallel
        write the manifest last

A data set on a disk or on NFS is used in place.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from cli.errors import UserError
from cli.progress import ProgressMeter
from pipelines.shards.fetching import fetch_all
from pipelines.shards.manifest import MANIFEST, Manifest, read_manifest
from pipelines.shards.staged import data_set_lock, folder_lock, make_room, mark_in_use
from pipelines.shards.verification import note_verified
from pipelines.storage.folder import Folder

DEFAULT_FOLDER = Path(tempfile.gettempdir()) / f"vgg-staged-{os.getuid()}"


@dataclass(frozen=True)
class StagingOptions:
    """Copy a packed data set to this machine's disk, verified by its digests, and print its folder."""

    data: tyro.conf.Positional[str]
    """URI of the packed data set, such as s3://bucket/data."""
    folder: Path = DEFAULT_FOLDER
    """Folder of staged data sets, on a fast local disk."""
    budget_gb: float | None = None
    """Limit for all staged data sets together. Default: the free space."""
    streams: int = 8
    """Files fetched at a time."""
    patience_seconds: float = 300.0
    """How long to retry while the store does not answer."""


def stage(options: StagingOptions) -> Path:
    """Folder of the data set on this machine; that of `options.data` itself if it is local.

    No other process removes it while this one lives. UserError if the data set is missing or damaged, there is
    no room for it, or the store does not answer.
    """
    source = Folder(options.data)
    if source.local is not None:
        return source.local
    manifest = read_manifest(options.data)
    target = options.folder.absolute() / manifest.digest[:16]
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        with data_set_lock(target):
            target.mkdir(exist_ok=True)
            mark_in_use(target)
            if not (target / MANIFEST).is_file():
                _fetch(source, manifest, target, options)
            os.utime(target)
    except OSError as error:
        raise UserError(f"{options.folder} cannot be written: {error.strerror or error}") from error
    return target


def _fetch(source: Folder, manifest: Manifest, target: Path, options: StagingOptions) -> None:
    files = [file for split in manifest.splits.values() for file in split.files]
    missing = [file for file in files if not (target / file.file).is_file()]
    total = sum(file.bytes for file in missing)
    fetched_before = sum(file.stat().st_size for file in target.glob("*.partial"))
    with folder_lock(target.parent):
        make_room(total - fetched_before, target, options.budget_gb, f"staging {options.data}")
    with ProgressMeter(f"staging {options.data}", total // 10**6, "MB") as meter:
        megabytes = 0

        def progress(bytes_fetched: int) -> None:
            nonlocal megabytes
            meter.advance(bytes_fetched // 10**6 - megabytes)
            megabytes = bytes_fetched // 10**6

        fetch_all(
            source,
            missing,
            target,
            streams=options.streams,
            patience_seconds=options.patience_seconds,
            progress=progress,
        )
    note_verified(target, manifest)
    Folder(str(target)).write(MANIFEST, manifest.to_json().encode())
