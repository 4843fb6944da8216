"""Pack a data set once: `python -m pipelines.pack SOURCE OUT`.

    list the source's files; cut the list into shards of about the size asked for
    for each shard, on all cores or as tasks of a Ray cluster:
        decode every image, set bad ones aside with their reason, write the rest, note that it is done
    add up what was noted, write the manifest, give the folder its name

Images keep the source's order, since readers shuffle all of them every epoch, and shards are cut before
anything is decoded: equal sources give equal bytes, whatever the number of processes. An interrupted packing
goes on with the shards that are not done.
"""

import hashlib
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import tyro
from filelock import FileLock, Timeout
from rich.console import Console

from pipelines.folder import Folder
from pipelines.items import Entry, Source
from pipelines.meter import Meter
from pipelines.shards import FORMAT, MANIFEST, Manifest, ShardInfo, Split
from pipelines.sources import open_source
from pipelines.tasks import run_all
from pipelines.writer import NOTES, PackedShard, ShardTask, done_before, pack_shard, write_index

PLAN = f"{NOTES}/plan"
LOCK = "lock"


@dataclass(frozen=True)
class Pack:
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


def pack(options: Pack) -> Manifest:
    """Pack as asked. ValueError where the source or the place to write to is unfit."""
    if options.shard_mb < 1 or (options.workers is not None and options.workers < 1):
        raise ValueError("--shard-mb and --workers must be at least 1")
    out = Folder(str(options.out))
    if out.local is None:
        if options.overwrite:
            raise ValueError("--overwrite is for folders: remove what is at the URI, or choose another")
        if out.exists(MANIFEST):
            raise ValueError(f"{out.uri} holds a packed data set already: choose another place")
        return _pack_to(options, out, None)
    _check_place(out.local, options.overwrite)
    spool = out.local.with_name(f"{out.local.name}.spool")
    try:
        return _pack_to(options, out, spool)
    finally:
        spool.unlink(missing_ok=True)


def _check_place(out: Path, overwrite: bool) -> None:
    """ValueError where the folder cannot be made, or would replace something that is not a data set."""
    occupied = out.exists() and not (out.is_dir() and not any(out.iterdir()))
    if occupied and not overwrite:
        raise ValueError(f"{out} exists already: choose another folder, or --overwrite to replace it")
    if occupied and not (out / MANIFEST).is_file():
        raise ValueError(f"--overwrite: {out} is not a packed data set, so it is left alone")
    above = next(folder for folder in out.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"{out} cannot be written: {above} is not a folder that may be written to")


def _pack_to(options: Pack, out: Folder, spool: Path | None) -> Manifest:
    if spool is not None:
        try:
            spool.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{out.uri} cannot be written: {error}") from error
    name = options.source if options.source == "digits" else str(Path(options.source).absolute())
    source = open_source(name, classes=options.classes, val_share=options.val_share, spool=spool)
    for split in ("train", "val"):
        if not source.counts.get(split):
            raise ValueError(f"{options.source} has no images for the split {split}")
    if out.local is None:
        manifest = _write_shards(source, out, options)
        out.write(MANIFEST, manifest.to_json().encode())
        out.delete(NOTES)
        return manifest
    with _taking_the_place_of(out.local) as partial:
        manifest = _write_shards(source, partial, options)
        partial.write(MANIFEST, manifest.to_json().encode())
    return manifest


@contextmanager
def _taking_the_place_of(out: Path) -> Iterator[Folder]:
    """A folder to write to, which gets the name `out` when all went well, is removed where the data set cannot
    be packed, and is kept where the packing was interrupted.
    """
    partial, old = out.with_name(f"{out.name}.partial"), out.with_name(f"{out.name}.old")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = FileLock(partial / LOCK)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"{out} is being packed by another process") from error
    except OSError as error:
        raise ValueError(f"{out} cannot be written: {error}") from error
    try:
        yield Folder(str(partial))
        shutil.rmtree(partial / NOTES)
        for left in partial.glob("*.partial"):  # of a process that was killed while it wrote
            left.unlink()
        lock.release()
        (partial / LOCK).unlink(missing_ok=True)
        _swap(partial, out, old)
    except ValueError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        lock.release()
    shutil.rmtree(old, ignore_errors=True)


def _swap(partial: Path, out: Path, old: Path) -> None:
    """Give `partial` the name `out`; what has it moves away whole, and back where that fails."""
    if not out.exists():
        partial.rename(out)
        return
    shutil.rmtree(old, ignore_errors=True)
    out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        old.rename(out)
        raise


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


def _write_shards(source: Source, folder: Folder, options: Pack) -> Manifest:
    labels = {name: place for place, name in enumerate(source.classes)}
    shards = plan(source, options.shard_mb * 10**6)
    packed = _resume(folder, source, options, [name for name, _ in shards])
    left = [
        (place, ShardTask(folder.uri, name, tuple(entries), labels))
        for place, (name, entries) in enumerate(shards)
        if place not in packed
    ]
    with Meter(f"packing {source.name}", len(source.entries), "images") as meter:
        meter.advance(sum(len(shards[place][1]) for place in packed))
        results = run_all(pack_shard, [task for _, task in left], workers=options.workers, cluster=options.ray)
        for number, result in results:
            place, task = left[number]
            packed[place] = result
            meter.advance(len(task.entries))
    by_split: dict[str, list[PackedShard]] = {split: [] for split in sorted(source.counts)}
    for place, (name, _) in enumerate(shards):
        by_split[name.rpartition("-")[0]].append(packed[place])
    indices = {split: _index(folder, split, of_split) for split, of_split in by_split.items()}
    return _manifest(source, by_split, indices)


def _index(folder: Folder, split: str, packed: list[PackedShard]) -> ShardInfo:
    rows_N3 = np.frombuffer(b"".join(shard.index for shard in packed), np.int32).reshape(-1, 3)
    return write_index(folder, f"{split}.index.arrow", rows_N3)


def _resume(folder: Folder, source: Source, options: Pack, names: list[str]) -> dict[int, PackedShard]:
    """What an interrupted packing of the same source, in the same way, has done: place -> shard."""
    digest = hashlib.sha256(repr((FORMAT, options.shard_mb, source.classes)).encode())
    for entry in source.entries:
        told = (entry.split, entry.key, entry.label, entry.place.size, entry.place.stamp, entry.boxes)
        digest.update(repr(told).encode())
    mine = digest.hexdigest().encode()
    if folder.exists(PLAN) and folder.read(PLAN) == mine:
        found = {place: done for place, name in enumerate(names) if (done := done_before(folder, name))}
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


def _manifest(source: Source, packed: dict[str, list[PackedShard]], indices: dict[str, ShardInfo]) -> Manifest:
    """What all shards are together. ValueError where the validation split or a class is empty."""
    set_aside = source.set_aside + [
        entry for shards in packed.values() for s in shards for entry in s.set_aside
    ]
    training: Counter[str] = Counter()
    pixels, sum_C, products_CC = 0, np.zeros(3), np.zeros((3, 3))
    for shard in packed["train"]:
        training.update(shard.images)
        pixels += shard.pixels
        sum_C += shard.sum_C
        products_CC += np.asarray(shard.products_CC)
    if emptied := [label for label in source.classes if not training[label]]:
        raise ValueError(f"class {emptied[0]}: none of its training images can be read")
    splits = {
        split: Split(tuple(shard.info for shard in shards if shard.info), indices[split])
        for split, shards in packed.items()
    }
    if not splits["val"].images:
        first = next(entry for entry in set_aside if entry.split == "val")
        raise ValueError(f"no image of split val can be read; {first.key}: {first.reason}")
    mean_C = sum_C / pixels
    covariance_CC = products_CC / pixels - np.outer(mean_C, mean_C)
    return Manifest(
        format=FORMAT,
        source=source.name,
        classes=tuple(source.classes),
        class_names=tuple(source.class_names.get(name, name) for name in source.classes),
        splits=splits,
        mean_rgb=(float(mean_C[0]), float(mean_C[1]), float(mean_C[2])),
        covariance_rgb=tuple(tuple(map(float, row)) for row in covariance_CC),
        set_aside=tuple(set_aside),
    )


def main() -> None:
    """Pack and say what was packed. Exit code 2 for a user's mistake."""
    options = tyro.cli(Pack, prog="python -m pipelines.pack")
    console = Console(soft_wrap=True)
    try:
        manifest = pack(options)
    except (ValueError, OSError) as error:  # OSError: an unreadable file of the source, a full disk
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"interrupted: {options.out} is not complete; the same command goes on with it", file=sys.stderr)
        sys.exit(130)
    sizes = ", ".join(f"{split.images:,} {name}" for name, split in manifest.splits.items())
    console.print(f"packed {manifest.source}: {sizes} images of {len(manifest.classes)} classes", markup=False)
    console.print(f"  in {options.out}, mean RGB {_rounded(manifest.mean_rgb)}", markup=False)
    if manifest.set_aside:
        counts = Counter(entry.split for entry in manifest.set_aside)
        told = ", ".join(f"{count:,} of {split}" for split, count in counts.items())
        console.print(f"  set aside: {told}; every one with its reason in {MANIFEST}", markup=False)
    for entry in manifest.set_aside[:20]:
        console.print(f"  set aside: {entry.split} {entry.key}: {entry.reason}", markup=False)
    if len(manifest.set_aside) > 20:
        console.print(f"  … and {len(manifest.set_aside) - 20:,} more")


def _rounded(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


if __name__ == "__main__":
    main()
