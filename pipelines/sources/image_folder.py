"""Folders of images: SPLIT/CLASS/image, or CLASS/image of which a share is held out for validation."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from cli.errors import UserError
from pipelines.shards.manifest import SkippedFile
from pipelines.sources.boxes import FOLDERS, Boxes
from pipelines.sources.selection import select_classes
from pipelines.sources.source import FileSlice, Source, SourceFile


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
    """CLASS/image; `val_share` of the images, picked by the hash of their names, are held out.

    UserError if that leaves a class without training images.
    """
    if not 0 < val_share < 1:
        raise UserError(f"--val-share {val_share} must lie between 0 and 1")
    available = _class_folders(path)
    selected = select_classes(sorted(available), classes)
    boxes = Boxes.find_in(path)
    by_split: dict[str, list[SourceFile]] = {"train": [], "val": []}
    skipped = []
    for label in selected:
        before = len(by_split["train"])
        for file in available[label]:
            key = str(file.relative_to(path))
            digest = hashlib.sha256(os.fsencode(key)).digest()
            split = "val" if int.from_bytes(digest[:8], "big") < val_share * 2**64 else "train"
            if file.is_file():
                by_split[split].append(
                    SourceFile(split, key, label, FileSlice.whole(file), boxes.for_image(file.stem))
                )
            else:
                skipped.append(_not_a_file(split, key))
        if len(by_split["train"]) == before:
            raise UserError(
                f"class {label}: all of its {len(available[label])} files are held out for validation: "
                "give it more images, or lower --val-share"
            )
    files = by_split["train"] + by_split["val"]
    return Source(f"image folder {path.name}", selected, {}, files, skipped + boxes.skipped)


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
