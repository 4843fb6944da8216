"""Packs a whole data set: its shards on many processes, then its manifest."""

from collections import Counter
from pathlib import Path

import numpy as np

from cli.progress import ProgressMeter
from pipelines.packing.arrow_file import write_index
from pipelines.packing.destination import replacing_folder
from pipelines.packing.options import PackOptions
from pipelines.packing.plan import finished_shards, plan
from pipelines.packing.shard import NOTES, PackedShard, ShardTask, pack_shard
from pipelines.shards.manifest import FORMAT, MANIFEST, Manifest, ShardInfo, Split
from pipelines.sources.entries import Source
from pipelines.sources.recognise import open_source
from pipelines.storage.folder import Folder
from pipelines.tasks import run_all


def pack_to(options: PackOptions, out: Folder, spool: Path | None) -> Manifest:
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
    with replacing_folder(out.local) as partial:
        manifest = _write_shards(source, partial, options)
        partial.write(MANIFEST, manifest.to_json().encode())
    return manifest


def _write_shards(source: Source, folder: Folder, options: PackOptions) -> Manifest:
    labels = {name: place for place, name in enumerate(source.classes)}
    shards = plan(source, options.shard_mb * 10**6)
    packed = finished_shards(folder, source, options, [name for name, _ in shards])
    left = [
        (place, ShardTask(folder.uri, name, tuple(entries), labels))
        for place, (name, entries) in enumerate(shards)
        if place not in packed
    ]
    with ProgressMeter(f"packing {source.name}", len(source.entries), "images") as meter:
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
