"""ILSVRC-2012 as distributed: a tar of tars for training, a tar with a ground truth for validation."""

import re
import tarfile
from collections.abc import Collection, Sequence
from pathlib import Path

from cli.errors import UserError
from pipelines.shards.manifest import SkippedFile
from pipelines.sources.archive import CORRUPT, FileListing, corrupt_archive, list_tar
from pipelines.sources.boxes import Boxes
from pipelines.sources.development_kit import TRUTH, DevelopmentKit
from pipelines.sources.selection import select_classes, skip_mismatches
from pipelines.sources.source import FileSlice, Source, SourceFile

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"

_NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


def ilsvrc_source(path: Path, classes: Sequence[str]) -> Source:
    """Read the folder with both image archives and the development kit; boxes as `Boxes.find_in` finds them.

    UserError naming what is missing or corrupt.
    """
    for file in (TRAIN, VAL):
        if not (path / file).is_file():
            raise UserError(f"{path} has no {file}: training and validation archives are both needed")
    kit = DevelopmentKit.read(path)
    skipped: list[SkippedFile] = []
    try:
        with tarfile.open(path / TRAIN, "r:") as outer:
            members = _class_archives(outer, skipped)
            selected = select_classes(sorted(members), classes)
            train = {wnid: _list_class(outer, members[wnid], path / TRAIN, skipped) for wnid in selected}
        val = FileListing(skipped=skipped)
        with tarfile.open(path / VAL, "r:") as archive:
            list_tar(archive, path / VAL, val)
    except CORRUPT as error:
        raise corrupt_archive(f"of {path}", error) from error
    if empty := [wnid for wnid, found in train.items() if not found]:
        raise UserError(f"class {empty[0]} is empty: {empty[0]}.tar of {TRAIN} holds no image")
    labels, mismatches = _val_labels(sorted(val.files), kit, members)
    boxes = Boxes.find_in(path)
    files = [
        SourceFile("train", name, wnid, train[wnid][name], boxes.for_image(Path(name).stem))
        for wnid in selected
        for name in sorted(train[wnid])
    ]
    files += [
        SourceFile("val", name, wnid, val.files[name], boxes.for_image(Path(name).stem))
        for name, wnid in labels.items()
        if wnid in train
    ]
    words = {synset.wnid: synset.words for synset in kit.synsets}
    class_names = {wnid: words.get(wnid, wnid) for wnid in selected}
    return Source("ILSVRC-2012", selected, class_names, files, skipped + mismatches + boxes.skipped)


def _class_archives(outer: tarfile.TarFile, skipped: list[SkippedFile]) -> dict[str, tarfile.TarInfo]:
    """WNID -> the archive of the class within the training archive."""
    listing, members = FileListing(skipped=skipped), {}
    for member in outer:
        if member.isfile() and member.name.endswith(".tar"):
            members[member.name.removesuffix(".tar")] = member
        else:
            listing.skip(member.name, f"{TRAIN} holds it beside the archives of its classes")
    return members


def _list_class(
    outer: tarfile.TarFile, member: tarfile.TarInfo, path: Path, skipped: list[SkippedFile]
) -> dict[str, FileSlice]:
    """The files of a class, as slices of the training archive at `path`."""
    listing = FileListing(skipped=skipped)
    stream = outer.extractfile(member)
    assert stream is not None
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        list_tar(tar, path, listing, member.offset_data)
    return listing.files


def _val_labels(
    names: list[str], kit: DevelopmentKit, trained_wnids: Collection[str]
) -> tuple[dict[str, str], list[SkippedFile]]:
    """Name -> WNID of each validation image, and the images and lines that disagree.

    UserError if they are more than a few.
    """
    truth, message = (
        kit.truth,
        f"{VAL} has {len(names)} images, {TRUTH} {len(kit.truth)} lines: they must agree",
    )
    lines = _line_of_image(names, len(truth), message)
    missing = sorted(set(range(1, len(truth) + 1)) - set(lines.values()))
    unmatched = [
        SkippedFile("val", f"ILSVRC2012_val_{line:08d}.JPEG", f"{TRUTH} has it, {VAL} does not")
        for line in missing
    ]
    unmatched += [
        SkippedFile("val", name, f"{TRUTH} has no line {line}")
        for name, line in lines.items()
        if not 1 <= line <= len(truth)
    ]
    mismatches = skip_mismatches(unmatched, len(truth), message)
    wnids = {synset.number: synset.wnid for synset in kit.synsets}
    labels, unknown = {}, []
    for name, line in lines.items():
        if not 1 <= line <= len(truth):
            continue
        wnid = wnids.get(truth[line - 1])
        if wnid is None:
            reason = f"{TRUTH} names class {truth[line - 1]}, which the list of synsets does not have"
        elif wnid not in trained_wnids:
            reason = f"{name} of {VAL} is of class {wnid}, which {TRAIN} does not have"
        else:
            labels[name] = wnid
            continue
        unknown.append(SkippedFile("val", name, reason))
    message = unknown[0].reason if unknown else ""
    return labels, mismatches + skip_mismatches(unknown, len(truth), message)


def _line_of_image(names: list[str], num_lines: int, message: str) -> dict[str, int]:
    """Name -> its line in the ground truth, from 1 on.

    The line is the number in the name or, if names have none, the position of the image. UserError with the
    message if there are not as many lines as images either.
    """
    numbered = {name: found for name in names if (found := _NUMBERED.fullmatch(name))}
    if len(numbered) == len(names):
        return {name: int(found[1]) for name, found in numbered.items()}
    if len(names) == num_lines:
        return {name: line for line, name in enumerate(names, start=1)}
    raise UserError(message)
