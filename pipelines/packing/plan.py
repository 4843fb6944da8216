"""Which files go into which shard, and which shards an interrupted packing has finished."""

import hashlib
import re
import sys
from itertools import groupby

from cli.errors import UserError
from pipelines.packing.options import PackOptions
from pipelines.packing.shard import NOTES, PackedShard, finished_shard
from pipelines.shards.schema import written_format
from pipelines.sources.source import Source, SourceFile
from pipelines.storage.folder import Folder

PLAN = f"{NOTES}/plan"
"""File with the digest of what is packed, by which a packing is resumed only if nothing has changed."""

LOCK = "lock"


def stem_of(split: str) -> str:
    """What the names of a split's files begin with: its own name, as far as a manifest takes it."""
    plain = re.sub(r"[^A-Za-z0-9_.-]|^[.-]", "_", split)[:100]
    return plain if plain == split else f"{plain}-{hashlib.sha256(split.encode()).hexdigest()[:8]}"


def plan_shards(source: Source, shard_bytes: int) -> dict[str, list[SourceFile]]:
    """Name -> files of each shard, in order: consecutive files of one split, until they reach `shard_bytes`."""
    shards = {}
    for split, of_split in groupby(sorted(source.files, key=lambda file: file.split), lambda file: file.split):
        files: list[SourceFile] = []
        size, number = 0, 0
        for file in of_split:
            files.append(file)
            size += file.content.size
            if size >= shard_bytes:
                shards[f"{stem_of(split)}-{number:05d}"] = files
                files, size, number = [], 0, number + 1
        if files:
            shards[f"{stem_of(split)}-{number:05d}"] = files
    return shards


def finished_shards(
    folder: Folder, source: Source, options: PackOptions, names: list[str]
) -> dict[str, PackedShard]:
    """Name -> shard for each that an interrupted packing of the same source and options has finished.

    The shards of a different packing are deleted. UserError if a remote folder holds something else.
    """
    digest = _plan_digest(source, options)
    if folder.exists(PLAN) and folder.read(PLAN) == digest:
        found = {name: shard for name in names if (shard := finished_shard(folder, name))}
        if found:
            print(f"resuming: {len(found)} of {len(names)} shards are packed already", file=sys.stderr)
        return found
    leftovers = [name for name in folder.names() if name != LOCK]
    if leftovers and NOTES not in leftovers and folder.local is None:
        raise UserError(f"{folder.uri} is not empty: choose another place")
    if leftovers:
        print(f"{folder.uri} holds shards of a different packing: starting over", file=sys.stderr)
        for name in leftovers:
            if name.endswith(".arrow"):
                folder.delete_file(name)
        if NOTES in leftovers:
            folder.delete(NOTES)
    folder.write(PLAN, digest)
    return {}


def _plan_digest(source: Source, options: PackOptions) -> bytes:
    form = written_format(in_segments=options.segments == "on", several_labels=source.several_labels)
    digest = hashlib.sha256(repr((form, options.shard_mb, source.classes)).encode())
    for file in source.files:
        identity = (file.split, file.key, file.label, file.content.size, file.content.stamp, file.boxes)
        digest.update(repr((*identity, file.labels, file.difficult)).encode())
    return digest.hexdigest().encode()
