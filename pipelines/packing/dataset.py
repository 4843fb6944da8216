"""Packs a whole data set: its shards, then the index of each split and the manifest."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from cli.errors import Failure, UserError
from cli.progress import ProgressMeter
from pipelines.packing.arrow_file import write_index
from pipelines.packing.croissant import CROISSANT, croissant
from pipelines.packing.destination import UnpackableSource, replacing_folder
from pipelines.packing.options import PackOptions
from pipelines.packing.packed_shard import PackedShard
from pipelines.packing.plan import finished_shards, plan_shards, stem_of
from pipelines.packing.shard import NOTES, ShardTask, pack_shard
from pipelines.shards.manifest import MANIFEST, BoxStatistics, Manifest, Segments, ShardInfo, Split
from pipelines.shards.schema import UNLABELLED, written_format
from pipelines.shards.splits import HOLDOUT
from pipelines.sources.held_out import share_text, with_holdout
from pipelines.sources.recognise import open_source
from pipelines.sources.source import NO_CLASS, Source
from pipelines.storage.folder import Folder

RunTasks = Callable[
    [Callable[[ShardTask], PackedShard], Sequence[ShardTask]], Iterator[tuple[ShardTask, PackedShard]]
]
"""Calls a function on every task and yields each task with its result, in any order."""


def pack_to(out: Folder, options: PackOptions, spool: Path | None, run: RunTasks) -> Manifest:
    """Pack the source of `options` to `out`; `run` packs its shards.

    `spool`: file that a compressed archive is decompressed to, by default a temporary one. UserError if the
    source cannot be packed or `out` cannot be written, Failure if `run` lost a task.
    """
    if spool is not None:
        try:
            spool.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{out.uri} cannot be written: {error}") from error
    name = options.source if options.source == "digits" else str(Path(options.source).absolute())
    source = open_source(name, classes=options.classes, val_share=options.val_share, spool=spool)
    for split in ("train", "val"):
        if not source.counts.get(split):
            held_out = ": none of a class's single image is held out" if source.split_note else ""
            raise UserError(f"{options.source} has no images for the split {split}{held_out}")
    if source.split_note:
        print(source.split_note, flush=True)
    source = _with_holdout(source, options.holdout_share)
    if out.local is None:
        manifest = _write(source, out, options, run)
        out.delete(NOTES)
        return manifest
    with replacing_folder(out.local) as partial:
        return _write(source, partial, options, run)


def _with_holdout(source: Source, share: float) -> Source:
    """As `pipelines.sources.held_out.with_holdout`, told to the user."""
    divided = with_holdout(source, share)
    if share:
        apart = [file.label for file in divided.files if file.split == HOLDOUT]
        print(
            f"kept apart from {source.counts['train']:,} training images as the split holdout: {len(apart):,}, "
            f"{share_text(apart, source.classes, share)} (--holdout-share)",
            flush=True,
        )
    return divided


def _write(source: Source, folder: Folder, options: PackOptions, run: RunTasks) -> Manifest:
    packed = _pack_shards(source, folder, options, run)
    indices = {split: _write_index(folder, split, shards) for split, shards in packed.items()}
    manifest = _manifest(source, packed, indices, options.segments == "on")
    folder.write(CROISSANT, croissant(manifest).encode())
    folder.write(MANIFEST, manifest.to_json().encode())
    return manifest


def _pack_shards(
    source: Source, folder: Folder, options: PackOptions, run: RunTasks
) -> dict[str, list[PackedShard]]:
    """Split -> its shards in order. Those that an interrupted packing finished are not packed again."""
    shards = plan_shards(source, options.shard_mb * 10**6)
    packed = finished_shards(folder, source, options, list(shards))
    labels = {NO_CLASS: UNLABELLED, **{name: label for label, name in enumerate(source.classes)}}
    tasks = [
        ShardTask(folder.uri, name, tuple(files), labels, options.segments == "on", source.several_labels)
        for name, files in shards.items()
        if name not in packed
    ]
    try:
        with ProgressMeter(f"packing {source.name}", len(source.files), "images") as meter:
            meter.advance(sum(len(shards[name]) for name in packed))
            for task, shard in run(pack_shard, tasks):
                packed[task.name] = shard
                meter.advance(len(task.files))
    except Failure as error:
        raise Failure(
            f"{error}: the finished shards are kept and the same command resumes; "
            "fewer --workers take less memory"
        ) from error
    by_split: dict[str, list[PackedShard]] = {split: [] for split in sorted(source.counts)}
    for name in shards:
        by_split[shards[name][0].split].append(packed[name])
    return by_split


def _write_index(folder: Folder, split: str, packed: list[PackedShard]) -> ShardInfo:
    rows_N3 = np.frombuffer(b"".join(shard.index for shard in packed), np.int32).reshape(-1, 3)
    return write_index(folder, f"{stem_of(split)}.index.arrow", rows_N3)


def _manifest(
    source: Source, packed: dict[str, list[PackedShard]], indices: dict[str, ShardInfo], in_segments: bool
) -> Manifest:
    """The manifest of all shards. UnpackableSource if a class, val or holdout has no readable image."""
    skipped = source.skipped + [file for shards in packed.values() for s in shards for file in s.skipped]
    training: Counter[str] = Counter()
    pixels, sum_C, products_CC = 0, np.zeros(3), np.zeros((3, 3))
    for shard in packed["train"]:
        training.update(shard.images)
        pixels += shard.pixels
        sum_C += shard.sum_C
        products_CC += np.asarray(shard.products_CC)
    if unreadable := [label for label in source.classes if not training[label]]:
        raise UnpackableSource(f"class {unreadable[0]}: none of its training images can be read")
    splits = {
        split: Split(tuple(shard.info for shard in shards if shard.info), indices[split])
        for split, shards in packed.items()
    }
    for split in ("val", HOLDOUT):
        if split in splits and not splits[split].images:
            first = next(file for file in skipped if file.split == split)
            raise UnpackableSource(f"no image of split {split} can be read; {first.key}: {first.reason}")
    mean_C = sum_C / pixels
    covariance_CC = products_CC / pixels - np.outer(mean_C, mean_C)
    return Manifest(
        format=written_format(in_segments=in_segments, several_labels=source.several_labels),
        source=source.name,
        classes=tuple(source.classes),
        class_names=tuple(source.class_names.get(name, name) for name in source.classes),
        splits=splits,
        mean_rgb=(float(mean_C[0]), float(mean_C[1]), float(mean_C[2])),
        covariance_rgb=tuple(tuple(map(float, row)) for row in covariance_CC),
        skipped=tuple(skipped),
        segments=_segments(packed) if in_segments else None,
        boxes=_box_statistics(packed),
    )


def _box_statistics(packed: dict[str, list[PackedShard]]) -> BoxStatistics:
    images = {split: sum(shard.boxed for shard in shards) for split, shards in packed.items()}
    xmin, ymin, xmax, ymax = np.asarray([shard.box_sum for shard in packed["train"]]).sum(0).tolist()
    if not (count := images["train"]):
        return BoxStatistics(images, None)
    return BoxStatistics(images, (xmin / count, ymin / count, xmax / count, ymax / count))


def _segments(packed: dict[str, list[PackedShard]]) -> Segments:
    shards, kept = [shard for of_split in packed.values() for shard in of_split], Counter[str]()
    for shard in shards:
        kept.update(shard.kept)
    return Segments(sum(shard.transcoded for shard in shards), dict(kept))
