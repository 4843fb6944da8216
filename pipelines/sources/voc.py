"""PASCAL VOC's classification sets as distributed: images of several classes, some of them difficult.

VOCdevkit/VOC2007/JPEGImages/000001.jpg
VOCdevkit/VOC2007/Annotations/000001.xml             boxes
VOCdevkit/VOC2007/ImageSets/Main/train.txt           names of a split's images
VOCdevkit/VOC2007/ImageSets/Main/cat_train.txt       each with 1: there is a cat, -1: none, 0: a difficult one
"""

import re
from collections.abc import Sequence
from pathlib import Path

from cli.errors import UserError
from pipelines.shards.manifest import SkippedFile
from pipelines.sources.boxes import Boxes
from pipelines.sources.selection import select_classes
from pipelines.sources.source import NO_CLASS, FileSlice, Source, SourceFile

LISTS = Path("ImageSets") / "Main"
SPLITS = ("train", "val", "test")


def voc_source(path: Path, classes: Sequence[str]) -> Source:
    """Read one year's folder. Its splits are train, val and, if it is there, test, whose images may have no
    labels. UserError if a list is missing or malformed."""
    lists = {name: path / LISTS / f"{name}.txt" for name in SPLITS}
    for name in ("train", "val"):
        if not lists[name].is_file():
            raise UserError(f"{path} has no {LISTS / name}.txt: it is not PASCAL VOC as distributed")
    ending = "_train.txt"
    found = sorted(file.name.removesuffix(ending) for file in (path / LISTS).glob(f"*{ending}"))
    selected = select_classes(found, classes)
    boxes = Boxes.find_in(path)
    files: list[SourceFile] = []
    skipped: list[SkippedFile] = []
    for split, names_file in lists.items():
        if not names_file.is_file():
            continue
        marks = {label: _marks(path / LISTS / f"{label}_{split}.txt") for label in selected}
        for name in (line.strip() for line in names_file.read_text().splitlines() if line.strip()):
            key, image = f"JPEGImages/{name}.jpg", path / "JPEGImages" / f"{name}.jpg"
            if not image.is_file():
                skipped.append(SkippedFile(split, key, "the list names it, the file is not there"))
                continue
            of_image = {label: marks[label].get(name) for label in selected}
            files.append(
                SourceFile(
                    split,
                    key,
                    NO_CLASS,
                    FileSlice.whole(image),
                    boxes.for_image(name),
                    labels=tuple(label for label, mark in of_image.items() if mark == 1),
                    difficult=tuple(label for label, mark in of_image.items() if mark == 0),
                )
            )
    year = re.fullmatch(r"VOC(\d{4})", path.absolute().name)
    source = f"VOC-{year[1]}" if year else f"VOC {path.name}"
    return Source(source, selected, {}, files, skipped + boxes.skipped, several_labels=True)


def _marks(file: Path) -> dict[str, int]:
    """Image -> mark; none where a split has no labels. UserError naming a malformed line."""
    if not file.is_file():
        return {}
    marks = {}
    for line in file.read_text().splitlines():
        if line.strip():
            name, *rest = line.split()
            if len(rest) != 1 or rest[0] not in ("1", "0", "-1"):
                raise UserError(f"{file}: the line {line.strip()!r} is no image with 1, 0 or -1")
            marks[name] = int(rest[0])
    return marks


def year_of(path: Path) -> Path | None:
    """The folder of one year that the path is or holds; None if it is none of VOC's. UserError if it holds
    several."""
    if (path / LISTS).is_dir() and (path / "JPEGImages").is_dir():
        return path
    years = [found for found in sorted(path.glob("VOC[0-9][0-9][0-9][0-9]")) if (found / LISTS).is_dir()]
    if len(years) > 1:
        raise UserError(f"{path} has {', '.join(each.name for each in years)}: name one of them")
    return years[0] if years else None
