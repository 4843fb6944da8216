"""Folders of images: SPLIT/CLASS/image, or CLASS/image of which a share of each class is held out."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cli.errors import UserError
from pipelines.shards.manifest import SkippedFile
from pipelines.sources.boxes import FOLDERS, Boxes
from pipelines.sources.selection import select_classes
from pipelines.sources.source import IMAGE_SUFFIXES, FileSlice, Source, SourceFile


def split_folders_source(path: Path, folders: list[Path], classes: Sequence[str]) -> Source:
    """SPLIT/CLASS/image. The validation split is `val`, else `valid`, `validation` or `test`.

    UserError if a split is missing or has a class that train does not have.
    """
    splits = {folder.name: folder for folder in folders}
    if "train" not in splits:
        raise UserError(f"{path} has split folders {', '.join(splits)} but no train")
    if "val" not in splits:
        other = next((name for name in ("valid", "validation", "test") if name in splits), None)
        if other is None:
            raise UserError(f"{path} has no validation split: expected a folder val beside train")
        splits["val"] = splits.pop(other)
    available = {name: _class_folders(folder) for name, folder in splits.items()}
    selected = select_classes(sorted(available["train"]), classes)
    for name, found in available.items():
        if unknown := sorted(set(found) - set(available["train"])):
            raise UserError(f"{splits[name]}/{unknown[0]} is a class that train does not have")
    boxes = Boxes.find_in(path)
    files, skipped = [], []
    for name, found in available.items():
        for label in selected:
            for file in found.get(label, []):
                key = str(file.relative_to(path))
                if file.is_file():
                    files.append(
                        SourceFile(name, key, label, FileSlice.whole(file), boxes.for_image(file.stem))
                    )
                else:
                    skipped.append(_not_a_file(name, key))
    return Source(f"image folder {path.name}", selected, {}, files, skipped + boxes.skipped)


def class_folders_source(path: Path, folders: list[Path], classes: Sequence[str], val_share: float) -> Source:
    """CLASS/image; `val_share` of the images of each class are held out, see `held_out`."""
    if not 0 < val_share < 1:
        raise UserError(f"--val-share {val_share} must lie between 0 and 1")
    available = _class_folders(path)
    selected = select_classes(sorted(available), classes)
    boxes = Boxes.find_in(path)
    by_split: dict[str, list[SourceFile]] = {"train": [], "val": []}
    skipped = []
    for label in selected:
        files = {str(file.relative_to(path)): file for file in available[label]}
        there = {key: file for key, file in files.items() if file.is_file()}
        skipped += [_not_a_file("train", key) for key in files if key not in there]
        validation = held_out(list(there), val_share)
        for key, file in there.items():
            split = "val" if key in validation else "train"
            by_split[split].append(
                SourceFile(split, key, label, FileSlice.whole(file), boxes.for_image(file.stem))
            )
    note = _held_out_note(by_split, selected, val_share)
    files_in_order = by_split["train"] + by_split["val"]
    return Source(
        f"image folder {path.name}", selected, {}, files_in_order, skipped + boxes.skipped, split_note=note
    )


def held_out(keys: Sequence[str], share: float) -> set[str]:
    """The files of one class that are held out for validation: of its images so many as `share` says, rounded,
    at least one and at most all but one; none of a single one.

    Those whose names have the smallest hashes, so that the choice does not depend on order or other classes.
    """
    images = [key for key in keys if key.lower().endswith(IMAGE_SUFFIXES)] or list(keys)
    count = min(max(round(share * len(images)), 1), len(images) - 1)
    by_hash = sorted(images, key=lambda key: hashlib.sha256(os.fsencode(key)).digest())
    return set(by_hash[: max(count, 0)])


def _held_out_note(by_split: dict[str, list[SourceFile]], classes: list[str], share: float) -> str:
    counts = {split: Counter(file.label for file in files) for split, files in by_split.items()}
    fewest, most = (choose(counts["val"][label] for label in classes) for choose in (min, max))
    each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    total = sum(map(len, by_split.values()))
    return (
        f"held out for validation: {len(by_split['val']):,} of {total:,} files, {share:.0%} of each class "
        f"({each} a class), chosen by their names (--val-share)"
    )


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """Class -> its files, sorted. UserError naming a class without any."""
    found = {}
    for sub in sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != "." and p.name not in FOLDERS):
        files = sorted(f for f in sub.rglob("*") if not f.is_dir() and not f.name.startswith("."))
        if not files:
            raise UserError(f"class folder {sub} is empty: put images there or remove it")
        found[sub.name] = files
    return found


def _not_a_file(split: str, key: str) -> SkippedFile:
    return SkippedFile(split, key, "a broken link or a special file")
