"""Brings a packed data set from an object store to this machine's disk.

    under a lock that the processes of a machine share, so that one of them fetches and the others wait:
        mark the data set as in use by this process
        make room within the budget by removing unused data sets, the least recently used first, and reserve it
        fetch the files of the wanted splits in parallel
        write the manifest last

A data set on a disk or on NFS is used in place.
"""

import os
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import tyro

from cli.errors import UserError
from cli.progress import ProgressMeter
from pipelines.shards.fetching import fetch_all
from pipelines.shards.manifest import MANIFEST, Manifest, ShardInfo, read_manifest
from pipelines.shards.room import reserved_room
from pipelines.shards.staged import data_set_lock, mark_in_use
from pipelines.shards.verification import note_verified
from pipelines.storage.folder import Folder
from pipelines.storage.patience import UNDERWAY, Patience

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
    splits: tuple[str, ...] = ()
    """Splits to copy, such as val. Default: all."""


def stage(
    options: StagingOptions, *, splits: Collection[str] = (), underway: bool = False, flag: str = ""
) -> Path:
    """Folder of the data set on this machine; that of `options.data` itself if it is local.

    `splits`: those that are read, by default all of `options`; `flag`: by which the user named the data. No
    other process removes the folder while this one lives. UserError if the data set is missing or damaged,
    there is no room for it, or the store does not answer; where a job is `underway`, that is waited for longer
    and then StoreUnavailable.
    """
    source = Folder(options.data, flag)
    if source.local is not None:
        return source.local
    patience = Patience(options.patience_seconds, UserError)
    if underway:
        source, patience = source.underway(), UNDERWAY
    manifest = read_manifest(source)
    target = options.folder.absolute() / manifest.digest[:16]
    wanted = manifest.files(splits or options.splits)
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        with data_set_lock(target):
            target.mkdir(exist_ok=True)
            mark_in_use(target)
            _fetch(source, manifest, wanted, target, options, patience)
            os.utime(target)
    except OSError as error:
        raise UserError(f"{options.folder} cannot be written: {error.strerror or error}") from error
    return target


def _fetch(
    source: Folder,
    manifest: Manifest,
    wanted: list[ShardInfo],
    target: Path,
    options: StagingOptions,
    patience: Patience,
) -> None:
    """Fetch those of the wanted files that are not there: a file has its name once it is verified."""
    missing = [file for file in wanted if not (target / file.file).is_file()]
    if not missing and (target / MANIFEST).is_file():
        return
    total = sum(file.bytes for file in missing)
    partial = [target / f"{file.file}.partial" for file in missing]
    fetched_before = sum(file.stat().st_size for file in partial if file.is_file())
    purpose = f"staging {options.data}"
    room = reserved_room(total - fetched_before, target, options.budget_gb, purpose)
    with room, ProgressMeter(purpose, total // 10**6, "MB") as meter:
        megabytes = 0

        def progress(bytes_fetched: int) -> None:
            nonlocal megabytes
            meter.advance(bytes_fetched // 10**6 - megabytes)
            megabytes = bytes_fetched // 10**6

        fetch_all(source, missing, target, streams=options.streams, patience=patience, progress=progress)
    note_verified(target, manifest, missing)
    Folder(str(target)).write(MANIFEST, manifest.to_json().encode())
