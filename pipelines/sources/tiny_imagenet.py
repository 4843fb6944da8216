"""Tiny ImageNet as distributed: an archive, or the folder that it unpacks to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.errors import UserError
from pipelines.shards.boxes import Box
from pipelines.shards.manifest import SkippedFile
from pipelines.sources.archive import FileListing, list_archive
from pipelines.sources.selection import select_classes, skip_mismatches
from pipelines.sources.source import NO_CLASS, FileSlice, Source, SourceFile

ARCHIVES = (".tar.xz", ".tar.gz", ".tgz", ".tar", ".zip")

WNIDS, WORDS, VAL, TEST = "wnids.txt", "words.txt", "val/val_annotations.txt", "test/images/"


def tiny_imagenet_archive(path: Path, classes: Sequence[str], spool: Path) -> Source:
    """Read the archive; a compressed one is decompressed to `spool`. Names are relative to the folder of
    wnids.txt."""
    listing = list_archive(path, spool)
    roots = [name.removesuffix(WNIDS) for name in listing.files if name.split("/")[-1] == WNIDS]
    root = min(roots, key=len, default="")
    listing.files = {name.removeprefix(root): content for name, content in listing.files.items()}
    return _source(_Tables(str(path), listing), classes)


def tiny_imagenet_folder(path: Path, classes: Sequence[str]) -> Source:
    """Read the unpacked folder."""
    listing = FileListing()
    for file in sorted(path.rglob("*")):
        name = str(file.relative_to(path))
        if file.is_file():
            listing.files[name] = FileSlice.whole(file)
        elif not file.is_dir():
            listing.skip(name, "a broken link or a special file")
    return _source(_Tables(str(path), listing), classes)


@dataclass(frozen=True)
class _Row:
    """A line of a label file: an image with its class and its box."""

    split: str
    key: str
    wnid: str
    box: Box


@dataclass(frozen=True)
class _Tables:
    """The data set's files, of which the label files are tables of tab-separated columns."""

    source: str
    listing: FileListing

    def read(self, file: str, columns: int) -> list[list[str]]:
        """Rows of a table. UserError if it is missing, or a row has fewer columns."""
        if file not in self.listing.files:
            raise UserError(
                f"{self.source} is not Tiny ImageNet as distributed, or not all of it: it has no {file}"
            )
        lines = self.listing.files[file].read().decode("utf-8", "replace").splitlines()
        rows = [line.split("\t") for line in lines if line]
        if short := [row for row in rows if len(row) < columns]:
            raise UserError(f"{self.source}: a line of {file} has fewer than {columns} columns: {short[0]}")
        return rows


def _source(tables: _Tables, classes: Sequence[str]) -> Source:
    """wnids.txt, words.txt, train/WNID/images with boxes, val/images with annotations; test/images without
    labels, which belong to all classes or none of a selection.

    Images that no line names, and lines that name no image, are skipped. UserError naming the file that is
    missing, the line that is malformed, or how many lines disagree if they are too many.
    """
    files = tables.listing.files
    wnids = sorted({row[0] for row in tables.read(WNIDS, 1)})
    selected = select_classes(wnids, classes)
    words = {row[0]: row[1] for row in tables.read(WORDS, 2)}
    annotations = tables.read(VAL, 6)
    rows = _train_rows(tables, selected)
    rows += [
        _Row("val", f"val/images/{row[0]}", row[1], _box(VAL, row[2:6], row[1]))
        for row in annotations
        if row[1] in selected
    ]
    skipped = tables.listing.skipped + _unknown_classes(tables.source, annotations, wnids)
    missing = [row for row in rows if row.key not in files]
    skipped += skip_mismatches(
        [SkippedFile(row.split, row.key, "it is listed but not there") for row in missing],
        len(rows),
        f"{tables.source} lacks {len(missing)} images it lists, "
        f"e.g. {missing[0].key if missing else ''}: fetch it again",
    )
    listed = {row.key for row in rows} | {f"val/images/{row[0]}" for row in annotations}
    skipped += [_unlisted(key) for key in files if key not in listed and _is_image(key, wnids, selected)]
    labelled = [
        SourceFile(row.split, row.key, row.wnid, files[row.key], (row.box,)) for row in rows if row.key in files
    ]
    unlabelled = [
        SourceFile("test", key, NO_CLASS, files[key])
        for key in sorted(files)
        if key.startswith(TEST) and selected == wnids
    ]
    names = {wnid: words.get(wnid, wnid) for wnid in selected}
    return Source("Tiny ImageNet", selected, names, labelled + unlabelled, skipped)


def _train_rows(tables: _Tables, selected: list[str]) -> list[_Row]:
    rows = []
    for wnid in selected:
        file = f"train/{wnid}/{wnid}_boxes.txt"
        lines = tables.read(file, 5)
        if not lines:
            raise UserError(f"{tables.source}: class {wnid} is empty: {file} lists no image")
        for line in lines:
            box = _box(file, line[1:5], wnid)
            rows.append(_Row("train", f"train/{wnid}/images/{line[0]}", wnid, box))
    return rows


def _unknown_classes(source: str, annotations: list[list[str]], wnids: list[str]) -> list[SkippedFile]:
    unknown = [row for row in annotations if row[1] not in wnids]
    return skip_mismatches(
        [SkippedFile("val", f"val/images/{row[0]}", f"class {row[1]} is not in {WNIDS}") for row in unknown],
        len(annotations),
        f"{source}: {VAL} has class {unknown[0][1] if unknown else ''}, which {WNIDS} does not list",
    )


def _is_image(key: str, wnids: list[str], selected: list[str]) -> bool:
    """Whether a file lies where the images of a selected class lie, or below a class that is not listed."""
    parts = key.split("/")
    if parts[0] == "val":
        return len(parts) > 2
    return parts[0] == "train" and len(parts) > 3 and (parts[1] in selected or parts[1] not in wnids)


def _unlisted(key: str) -> SkippedFile:
    split = key.split("/")[0]
    label_file = VAL if split == "val" else f"the class's {key.split('/')[1]}_boxes.txt"
    return SkippedFile(split, key, f"no line of {label_file} names it")


def _box(file: str, edges: list[str], wnid: str) -> Box:
    try:
        xmin, ymin, xmax, ymax = map(float, edges)
        return Box(xmin, ymin, xmax, ymax, wnid)
    except ValueError as error:
        raise UserError(f"{file}: a box must be four numbers, not {edges}") from error
