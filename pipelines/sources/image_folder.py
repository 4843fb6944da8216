"""Folders of images: SPLIT/CLASS/image, or CLASS/image of which a share of each class is held out."""

from collections.abc import Sequence
from pathlib import Path

from cli.errors import UserError
from pipelines.shards.manifest import SkippedFile
from pipelines.sources.boxes import FOLDERS, Boxes
from pipelines.sources.files_below import files_below
from pipelines.sources.held_out import held_out, share_text
from pipelines.sources.selection import select_classes
from pipelines.sources.source import FileSlice, Source, SourceFile, utf8_name


def split_folders_source(path: Path, folders: list[Path], classes: Sequence[str]) -> Source:
    """SPLIT/CLASS/image. The validation split is `val`, else `valid`, `validation` or `test`.

    UserError if a split is missing or has a class that train does not have.
    """
    splits = {utf8_name(folder.name): folder for folder in folders}
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
                    files.append(_source_file(name, key, label, file, boxes))
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
            by_split[split].append(_source_file(split, key, label, file, boxes))
    note = _held_out_note(by_split, selected, val_share)
    files_in_order = by_split["train"] + by_split["val"]
    return Source(
        f"image folder {path.name}", selected, {}, files_in_order, skipped + boxes.skipped, split_note=note
    )


def _source_file(split: str, key: str, label: str, file: Path, boxes: Boxes) -> SourceFile:
    """`key`: the file's path in the source, by whose folders its annotation is found."""
    return SourceFile(
        split, key, label, FileSlice.whole(file), boxes.for_image(file.stem, Path(key).parent.parts)
    )


def _held_out_note(by_split: dict[str, list[SourceFile]], classes: list[str], share: float) -> str:
    total = sum(map(len, by_split.values()))
    return (
        f"held out for validation: {len(by_split['val']):,} of {total:,} files, "
        f"{share_text([file.label for file in by_split['val']], classes, share)} (--val-share)"
    )


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """Class -> its files, sorted. UserError naming a class without any."""
    found = {}
    for sub in sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != "." and p.name not in FOLDERS):
        files = files_below(sub)
        if not files:
            raise UserError(f"class folder {sub} is empty: put images there or remove it")
        found[sub.name] = files
    return found


def _not_a_file(split: str, key: str) -> SkippedFile:
    return SkippedFile(split, key, "a broken link or a special file")
