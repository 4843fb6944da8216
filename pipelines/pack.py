"""Pack a data set once: `python -m pipelines.pack SOURCE OUT`.

Every image is decoded, bad ones are set aside with their reason, the rest go into Arrow shards. They keep the
source's order, since readers shuffle all of them every epoch, so equal sources give equal bytes. The result
appears under its name only when it is complete; an interrupted packing starts anew.
"""

import hashlib
import os
import shutil
import signal
import sys
from collections import Counter, deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import tyro
from rich.console import Console

from pipelines.decode import Decoded, decode
from pipelines.items import Item, Source
from pipelines.meter import Meter
from pipelines.shards import FORMAT, MANIFEST, SCHEMA, Manifest, SetAside, ShardInfo, Split
from pipelines.sources import open_source

CHUNK = 32  # files a decoding task takes
BATCH_BYTES = 16 * 2**20  # a record batch: what is held in memory of a shard being written


@dataclass(frozen=True)
class Pack:
    """Pack a data set into Arrow shards."""

    source: tyro.conf.Positional[str]
    """`digits`, an image folder, Tiny ImageNet's archive or folder, or a folder of ILSVRC-2012's archives."""
    out: tyro.conf.Positional[Path]
    """Folder to make."""
    classes: tuple[str, ...] = ()
    """Only these classes, or one number: only the first so many."""
    val_share: float = 0.1
    """Share of the images held out where the source has no splits."""
    shard_mb: int = 256
    """Size of a shard in MB."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes that decode."""
    overwrite: bool = False
    """Replace a packed data set at OUT."""


class SplitWriter:
    """Writes the shards of one split, a record batch at a time."""

    def __init__(self, folder: Path, split: str, shard_bytes: int) -> None:
        self._folder, self._split, self._limit = folder, split, shard_bytes
        self._rows: list[dict[str, object]] = []
        self._held, self._in_shard, self._shard_rows = 0, 0, 0
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self.infos: list[ShardInfo] = []

    def add(self, row: dict[str, object], size: int) -> None:
        """Take one image of `size` bytes."""
        self._rows.append(row)
        self._held += size
        self._in_shard += size
        if self._in_shard >= self._limit:
            self._end_shard()
        elif self._held >= BATCH_BYTES:
            self._write_batch()

    def close(self) -> Split:
        """Write what is left."""
        self._end_shard()
        return Split(tuple(self.infos))

    @property
    def _file(self) -> Path:
        return self._folder / f"{self._split}-{len(self.infos):05d}.arrow"

    def _write_batch(self) -> None:
        if self._writer is None:
            self._writer = pa.ipc.new_file(str(self._file), SCHEMA)
        self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, SCHEMA))
        self._shard_rows += len(self._rows)
        self._rows, self._held = [], 0

    def _end_shard(self) -> None:
        if self._rows:
            self._write_batch()
        if self._writer is None:
            return
        self._writer.close()
        with self._file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
        size = self._file.stat().st_size
        self.infos.append(ShardInfo(self._file.name, self._shard_rows, size, digest))
        self._writer, self._in_shard, self._shard_rows = None, 0, 0


def pack(options: Pack) -> Manifest:
    """Pack as asked. ValueError where the source or the place to write to is unfit; then nothing is left."""
    out = options.out.absolute()
    if out.exists() and not options.overwrite:
        raise ValueError(f"{out} exists already: choose another folder, or --overwrite to replace it")
    if out.exists() and not (out / MANIFEST).is_file():
        raise ValueError(f"--overwrite: {out} is not a packed data set, so it is left alone")
    above = next(folder for folder in out.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"{out} cannot be written: {above} is not a folder that may be written to")
    if options.shard_mb < 1 or options.workers < 1:
        raise ValueError("--shard-mb and --workers must be at least 1")
    source = open_source(options.source, classes=options.classes, val_share=options.val_share)
    for split in ("train", "val"):
        if not source.counts.get(split):
            raise ValueError(f"{options.source} has no images for the split {split}")
    with _taking_the_place_of(out) as partial:
        manifest = _write_shards(source, partial, options)
        (partial / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


@contextmanager
def _taking_the_place_of(out: Path) -> Iterator[Path]:
    """A folder to write to, which gets the name `out` when all went well and else is removed."""
    partial, old = out.with_name(f"{out.name}.partial"), out.with_name(f"{out.name}.old")
    try:
        if partial.exists():
            print(f"an interrupted packing left {partial}: starting anew", file=sys.stderr)
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"{out} cannot be written: {error}") from error
    try:
        yield partial
        if out.exists():  # moved before it is removed: half of it is never seen under its name
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write_shards(source: Source, folder: Path, options: Pack) -> Manifest:
    labels = {name: place for place, name in enumerate(source.classes)}
    writers = {split: SplitWriter(folder, split, options.shard_mb * 10**6) for split in sorted(source.counts)}
    set_aside: list[SetAside] = []
    training: Counter[str] = Counter()  # images of each class that were read
    pixels, sum_C, products_CC = 0, np.zeros(3), np.zeros((3, 3))
    with (
        Meter(f"packing {source.name}", sum(source.counts.values()), "images") as meter,
        closing(_decoded(source.items(), options.workers)) as pairs,
    ):
        for item, decoded in pairs:
            if item.split == "train":
                training[item.label] += not isinstance(decoded, str)
            meter.advance(1)
            if isinstance(decoded, str):
                set_aside.append(SetAside(item.split, item.key, decoded))
                continue
            row = {
                "key": item.key,
                "image": decoded.data,
                "label": labels[item.label],
                "height": decoded.height,
                "width": decoded.width,
                "boxes": item.boxes,
            }
            writers[item.split].add(row, len(decoded.data))
            if item.split == "train":
                pixels += decoded.height * decoded.width
                sum_C += decoded.sum_C
                products_CC += decoded.products_CC
    splits = {split: writer.close() for split, writer in writers.items()}
    if emptied := [label for label, images in training.items() if not images]:
        raise ValueError(f"class {emptied[0]}: none of its training images can be read")
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


def _decoded(items: Iterator[Item], workers: int) -> Generator[tuple[Item, Decoded | str], None, None]:
    """Each item with what decoding it gave, in order, whatever the number of processes."""
    if workers == 1:
        for item in items:
            yield item, decode(item.data)
        return
    waiting: deque[tuple[list[Item], Future[list[Decoded | str]]]] = deque()
    # Ctrl-C reaches every process of the terminal; it is this one that answers it.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN))
    try:
        while chunk := list(islice(items, CHUNK)):
            waiting.append((chunk, pool.submit(_decode_all, [item.data for item in chunk])))
            if len(waiting) > 3 * workers:  # bounds what is held in memory
                done, future = waiting.popleft()
                yield from zip(done, future.result(), strict=True)
        while waiting:
            done, future = waiting.popleft()
            yield from zip(done, future.result(), strict=True)
    except BrokenProcessPool as error:
        raise ValueError("a decoding process was killed (out of memory?): try fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _decode_all(files: list[bytes]) -> list[Decoded | str]:
    return [decode(data) for data in files]


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
        print(f"interrupted: {options.out} was not written", file=sys.stderr)
        sys.exit(130)
    sizes = ", ".join(f"{split.images:,} {name}" for name, split in manifest.splits.items())
    console.print(f"packed {manifest.source}: {sizes} images of {len(manifest.classes)} classes", markup=False)
    console.print(f"  in {options.out.absolute()}, mean RGB {_rounded(manifest.mean_rgb)}", markup=False)
    for entry in manifest.set_aside[:20]:
        console.print(f"  set aside: {entry.split} {entry.key}: {entry.reason}", markup=False)
    if len(manifest.set_aside) > 20:
        console.print(f"  … {len(manifest.set_aside)} set aside in all, listed in {MANIFEST}")


def _rounded(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


if __name__ == "__main__":
    main()
