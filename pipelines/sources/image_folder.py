"""Folders of images: SPLIT/CLASS/image, or CLASS/image of which a share is held out."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from pipelines.shards.manifest import SetAside
from pipelines.sources.boxes import FOLDERS, Boxes
from pipelines.sources.entries import Entry, Range, Source, choose


def split_folders_source(path: Path, folders: list[Path], classes: Sequence[str]) -> Source:
    """SPLIT/CLASS/image. The validation split is `val`, else `valid`, `validation` or `test`."""
    splits = {folder.name: folder for folder in folders}
    if "train" not in splits:
        raise ValueError(f"{path} has split folders {', '.join(splits)} but no train")
    if "val" not in splits:
        other = next((name for name in ("valid", "validation", "test") if name in splits), None)
        if other is None:
            raise ValueError(f"{path} has no validation split: wanted a folder val beside train")
        splits["val"] = splits.pop(other)
    there = {name: _class_folders(folder) for name, folder in splits.items()}
    chosen = choose(sorted(there["train"]), classes)
    for name, found in there.items():
        if unknown := sorted(set(found) - set(there["train"])):
            raise ValueError(f"{splits[name]}/{unknown[0]} is a class that train does not have")
    boxes = Boxes.beside(path)
    entries, set_aside = [], []
    for name, found in there.items():
        for label in chosen:
            for file in found.get(label, []):
                key = str(file.relative_to(path))
                if file.is_file():
                    entries.append(Entry(name, key, label, Range.whole(file), boxes.of(file.stem)))
                else:
                    set_aside.append(_no_file(name, key))
    return Source(f"image folder {path.name}", chosen, {}, entries, set_aside + boxes.set_aside)


def class_folders_source(path: Path, folders: list[Path], classes: Sequence[str], val_share: float) -> Source:
    """CLASS/image; `val_share` of the images, chosen by the hash of their names, are held out.

    ValueError where that leaves a class without training images.
    """
    if not 0 < val_share < 1:
        raise ValueError(f"--val-share {val_share} must lie between 0 and 1")
    there = _class_folders(path)
    chosen = choose(sorted(there), classes)
    boxes = Boxes.beside(path)
    held: dict[str, list[Entry]] = {"train": [], "val": []}
    set_aside = []
    for label in chosen:
        trained_on = len(held["train"])
        for file in there[label]:
            key = str(file.relative_to(path))
            digest = hashlib.sha256(os.fsencode(key)).digest()
            split = "val" if int.from_bytes(digest[:8], "big") < val_share * 2**64 else "train"
            if file.is_file():
                held[split].append(Entry(split, key, label, Range.whole(file), boxes.of(file.stem)))
            else:
                set_aside.append(_no_file(split, key))
        if len(held["train"]) == trained_on:
            raise ValueError(
                f"class {label}: all of its {len(there[label])} files are held out for validation: "
                "give it more images, or lower --val-share"
            )
    entries = held["train"] + held["val"]
    return Source(f"image folder {path.name}", chosen, {}, entries, set_aside + boxes.set_aside)


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """Class -> its files, sorted; ValueError naming a class without any."""
    found = {}
    for sub in sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != "." and p.name not in FOLDERS):
        files = sorted(f for f in sub.rglob("*") if not f.is_dir() and not f.name.startswith("."))
        if not files:
            raise ValueError(f"class folder {sub} is empty: put images there or remove it")
        found[sub.name] = files
    return found


def _no_file(split: str, key: str) -> SetAside:
    return SetAside(split, key, "a broken link or a special file")
