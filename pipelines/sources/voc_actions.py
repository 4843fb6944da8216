"""PASCAL VOC's action classification as distributed: an entry for each person, with box and actions.

VOCdevkit/VOC2012/ImageSets/Action/train.txt            names of a split's images
VOCdevkit/VOC2012/ImageSets/Action/running_train.txt    each an image, the number of an object in its
                                                        annotation, from 1, and 1: this person runs, -1: not,
                                                        0: it counts neither way
VOCdevkit/VOC2012/Annotations/2010_006215.xml           the objects, with their boxes

A person that an action's list leaves out counts neither for nor against it: VOC's evaluation takes persons from
the lists. Who does something else is -1 in all of them: `other` is no class there, and none here.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path

from cli.errors import UserError
from pipelines.shards.boxes import Box
from pipelines.shards.manifest import SkippedFile
from pipelines.sources.boxes import boxes_of_objects
from pipelines.sources.selection import select_classes
from pipelines.sources.source import NO_CLASS, FileSlice, Source, SourceFile

LISTS = Path("ImageSets") / "Action"
SPLITS = ("train", "val", "test")
PERSON, OTHER = "person", "other"

Person = tuple[str, int]
"""Name of an image, and the number of an object in its annotation, from 1."""


def year_of_actions(path: Path) -> Path | None:
    """The folder of the year whose lists of actions the path is; None if it is something else."""
    year = path.absolute().parent.parent
    return year if path.absolute() == year / LISTS and (year / "JPEGImages").is_dir() else None


def actions_source(year: Path, classes: Sequence[str]) -> Source:
    """Read the lists of one year's folder. Splits are train, val and, if it is there, test, whose persons may
    have no labels. UserError if a list is missing or malformed."""
    for split in ("train", "val"):
        if not (year / LISTS / f"{split}.txt").is_file():
            raise UserError(f"{year} has no {LISTS / split}.txt: these are not VOC's actions as distributed")
    ending = "_train.txt"
    found = {file.name.removesuffix(ending) for file in (year / LISTS).glob(f"*{ending}")}
    selected = select_classes(sorted(found - {OTHER}), classes)
    files: list[SourceFile] = []
    skipped: list[SkippedFile] = []
    for split in SPLITS:
        if (year / LISTS / f"{split}.txt").is_file():
            _read_split(year, split, selected, files, skipped)
    number = re.fullmatch(r"VOC(\d{4})", year.name)
    name = f"VOC-{number[1]} actions" if number else f"VOC {year.name} actions"
    return Source(name, selected, {}, files, skipped, several_labels=True)


def _read_split(
    year: Path, split: str, classes: Sequence[str], files: list[SourceFile], skipped: list[SkippedFile]
) -> None:
    """Add the persons of a split in the order of its list, and what cannot be packed. Where no list names an
    object, as of a test split without labels, every person of an annotation is added."""
    marks = {label: _marks(year / LISTS / f"{label}_{split}.txt") for label in classes}
    named = _named(year / LISTS / f"{split}.txt")
    for image, number in sorted({person for of_class in marks.values() for person in of_class}):
        if image not in named:
            raise UserError(f"{year / LISTS}: a list of {split} has {image}, which {split}.txt does not name")
        named[image].add(number)
    unlisted = not any(named.values())
    for image, numbers in named.items():
        key, file = f"JPEGImages/{image}.jpg", year / "JPEGImages" / f"{image}.jpg"
        if not file.is_file():
            skipped.append(SkippedFile(split, key, "the list names it, the file is not there"))
            continue
        boxes = _boxes_of_persons(year / "Annotations" / f"{image}.xml")
        if isinstance(boxes, str):
            skipped.append(SkippedFile(split, key, boxes))
            continue
        for number in sorted(boxes if unlisted else numbers):
            person, whose = (image, number), f"{key}#{number}"
            if number not in boxes:
                skipped.append(SkippedFile(split, whose, f"object {number} is no person with a box"))
                continue
            content = FileSlice.whole(file)
            of_person = {label: of_class.get(person) for label, of_class in marks.items()}
            files.append(_entry(split, whose, content, boxes[number], of_person))


def _entry(
    split: str, key: str, content: FileSlice, box: Box, mark_by_class: Mapping[str, int | None]
) -> SourceFile:
    labelled = any(mark is not None for mark in mark_by_class.values())
    return SourceFile(
        split,
        key,
        NO_CLASS,
        content,
        (box._replace(label=""),),  # the one that counts, whatever the person does
        labels=tuple(label for label, mark in mark_by_class.items() if mark == 1),
        difficult=tuple(label for label, mark in mark_by_class.items() if labelled and mark in (0, None)),
    )


def _boxes_of_persons(annotation: Path) -> dict[int, Box] | str:
    """The box of each person by its number, or the reason why it cannot be told."""
    try:
        boxes = boxes_of_objects(ET.fromstring(annotation.read_bytes()))
    except FileNotFoundError:
        return f"it has no {annotation.parent.name}/{annotation.name}"
    except (ET.ParseError, ValueError, OverflowError) as error:
        return f"{annotation.parent.name}/{annotation.name} is damaged: {error}"
    return {
        number: box
        for number, box in enumerate(boxes, start=1)
        if box is not None and box.label == PERSON and _has_area(box)
    }


def _has_area(box: Box) -> bool:
    return all(map(isfinite, box[:4])) and box.xmin < box.xmax and box.ymin < box.ymax


def _named(file: Path) -> dict[str, set[int]]:
    """The images of a split in order, each with the objects that the list names, if it does."""
    named: dict[str, set[int]] = {}
    for line in file.read_text().splitlines():
        image, *number = line.split() or [""]
        if len(number) > 1 or not all(map(str.isdecimal, number)):
            raise UserError(f"{file}: the line {line.strip()!r} is no image, nor an image with a number")
        if image:
            named.setdefault(image, set()).update(map(int, number))
    return named


def _marks(file: Path) -> dict[Person, int]:
    """Person -> mark; none where a split has no labels. UserError naming a malformed line."""
    marks: dict[Person, int] = {}
    for line in file.read_text().splitlines() if file.is_file() else ():
        if not line.strip():
            continue
        image, *rest = line.split()
        if len(rest) != 2 or not rest[0].isdecimal() or rest[1] not in ("1", "0", "-1"):
            raise UserError(f"{file}: the line {line.strip()!r} is no image with an object and 1, 0 or -1")
        marks[image, int(rest[0])] = int(rest[1])
    return marks
