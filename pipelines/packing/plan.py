"""Which entries make up which shard, and which shards an interrupted packing has finished."""

import hashlib
import sys
from itertools import groupby

from pipelines.packing.options import PackOptions
from pipelines.packing.shard import NOTES, PackedShard, finished_shard
from pipelines.shards.manifest import FORMAT
from pipelines.sources.entries import Entry, Source
from pipelines.storage.folder import Folder

PLAN = f"{NOTES}/plan"


LOCK = "lock"


def plan(source: Source, shard_bytes: int) -> list[tuple[str, list[Entry]]]:
    """Name and entries of each shard: consecutive files of one split, ended by the one that fills it."""
    shards = []
    for split, of_split in groupby(sorted(source.entries, key=lambda entry: entry.split), lambda e: e.split):
        entries: list[Entry] = []
        size, number = 0, 0
        for entry in of_split:
            entries.append(entry)
            size += entry.place.size
            if size >= shard_bytes:
                shards.append((f"{split}-{number:05d}", entries))
                entries, size, number = [], 0, number + 1
        if entries:
            shards.append((f"{split}-{number:05d}", entries))
    return shards


def finished_shards(
    folder: Folder, source: Source, options: PackOptions, names: list[str]
) -> dict[int, PackedShard]:
    """What an interrupted packing of the same source, in the same way, has done: place -> shard."""
    digest = hashlib.sha256(repr((FORMAT, options.shard_mb, source.classes)).encode())
    for entry in source.entries:
        told = (entry.split, entry.key, entry.label, entry.place.size, entry.place.stamp, entry.boxes)
        digest.update(repr(told).encode())
    mine = digest.hexdigest().encode()
    if folder.exists(PLAN) and folder.read(PLAN) == mine:
        found = {place: done for place, name in enumerate(names) if (done := finished_shard(folder, name))}
        if found:
            print(f"going on: {len(found)} of {len(names)} shards are packed already", file=sys.stderr)
        return found
    there = [name for name in folder.names() if name != LOCK]
    if there and NOTES not in there and folder.local is None:
        raise ValueError(f"{folder.uri} is not empty: choose another place")
    if there:
        print(f"another packing left {folder.uri}: starting anew", file=sys.stderr)
        for name in there:
            if name.endswith(".arrow"):
                folder.delete_file(name)
        if NOTES in there:
            folder.delete(NOTES)
    folder.write(PLAN, mine)
    return {}
