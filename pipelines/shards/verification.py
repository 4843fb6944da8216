"""Compares shards with the digests of their manifest, once for each state of a file."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from pipelines.shards.manifest import Manifest, ShardInfo


def verify(root: Path, manifest: Manifest, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Compare every shard's SHA-256 with the manifest's; `progress(bytes done, bytes in all)`.

    A shard that was verified before and has not been touched since (path, size, time of change, inode) is
    taken as read. ValueError naming the first shard that is missing or differs.
    """
    known: dict[str, list[int]] = {}
    with suppress(OSError, ValueError, TypeError):  # what is forgotten is read again
        known = dict(json.loads(_record_file(manifest).read_text()))
    shards = [shard for split in manifest.splits.values() for shard in split.files]
    total, done = sum(shard.bytes for shard in shards), 0

    def check(shard: ShardInfo) -> tuple[str, list[int]]:
        file = root / shard.file
        if not file.is_file():
            raise ValueError(f"shard {file} is missing: pack the data set again")
        stamp = _stamp(file)
        if known.get(stamp[0]) != stamp[1]:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if digest != shard.sha256:
                raise ValueError(
                    f"shard {file} is damaged: its SHA-256 is not the manifest's; copy or pack it again"
                )
        return stamp

    verified = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for shard, (name, stamp) in zip(shards, pool.map(check, shards), strict=True):
            verified[name] = stamp
            done += shard.bytes
            if progress is not None:
                progress(done, total)
    _record(manifest, {**known, **verified})


def note_verified(root: Path, manifest: Manifest) -> None:
    """Let `verify` know that every file here had its digest when it was written."""
    _record(manifest, dict(_stamp(root / f.file) for split in manifest.splits.values() for f in split.files))


def _stamp(file: Path) -> tuple[str, list[int]]:
    status = file.stat()
    return str(file.resolve()), [status.st_size, status.st_mtime_ns, status.st_ino]


def _record_file(manifest: Manifest) -> Path:
    return Path(tempfile.gettempdir()) / f"vgg-verified-{os.getuid()}" / f"{manifest.digest}.json"


def _record(manifest: Manifest, verified: dict[str, list[int]]) -> None:
    memory = _record_file(manifest)
    with suppress(OSError):  # what is forgotten is read again
        memory.parent.mkdir(mode=0o700, exist_ok=True)
        partial = memory.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(verified))
        partial.replace(memory)
