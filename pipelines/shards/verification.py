"""Verifies shards against the SHA-256 digests of their manifest, and remembers which files passed."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from cli.errors import UserError
from pipelines.shards.manifest import Manifest, ShardInfo
from pipelines.storage.atomic import atomic_file

FileState = list[int]
"""Size in bytes, modification time in ns, inode: a file whose state is unchanged is not read again."""


def verify(
    root: Path,
    manifest: Manifest,
    splits: Collection[str] = (),
    *,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Compare the SHA-256 of every file with the manifest's; calls `progress(bytes done, bytes in total)`.

    `splits`: those that are read, by default all.

    A shard that passed before and whose path and `FileState` are unchanged is not read again. UserError naming
    the first shard that is missing, unreadable or damaged.
    """
    passed_before = _passed_before(manifest)
    shards = manifest.files(splits)
    total, done = sum(shard.bytes for shard in shards), 0
    passed = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda shard: _check(root / shard.file, shard, passed_before), shards)
        for shard, (name, state) in zip(shards, results, strict=True):
            passed[name] = state
            done += shard.bytes
            if progress is not None:
                progress(done, total)
    _record(manifest, {**passed_before, **passed})


def note_verified(root: Path, manifest: Manifest, files: Iterable[ShardInfo]) -> None:
    """Record that these files in `root` were verified when they were written: `verify` need not read them."""
    _record(manifest, {**_passed_before(manifest), **dict(_state(root / file.file) for file in files)})


def _passed_before(manifest: Manifest) -> dict[str, FileState]:
    with suppress(OSError, ValueError, TypeError):  # without a record every shard is read again
        return dict(json.loads(_record_file(manifest).read_text()))
    return {}


def _check(file: Path, shard: ShardInfo, passed_before: dict[str, FileState]) -> tuple[str, FileState]:
    if not file.is_file():
        raise UserError(f"shard {file} is missing: pack the data set again")
    name, state = _state(file)
    if passed_before.get(name) == state:
        return name, state
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"shard {file} cannot be read: {error.strerror}") from error
    if digest != shard.sha256:
        raise UserError(f"shard {file} is damaged: its SHA-256 is not the manifest's; copy or pack it again")
    return name, state


def _state(file: Path) -> tuple[str, FileState]:
    status = file.stat()
    return str(file.resolve()), [status.st_size, status.st_mtime_ns, status.st_ino]


def _record_file(manifest: Manifest) -> Path:
    return Path(tempfile.gettempdir()) / f"vgg-verified-{os.getuid()}" / f"{manifest.digest}.json"


def _record(manifest: Manifest, passed: dict[str, FileState]) -> None:
    record = _record_file(manifest)
    with suppress(OSError):  # without a record every shard is read again
        record.parent.mkdir(mode=0o700, exist_ok=True)
        with atomic_file(record, "w") as file:
            json.dump(passed, file)
