"""ILSVRC-2012 as distributed: a tar of tars for training, a tar with a ground truth for validation."""

import io
import tarfile
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from pipelines.items import Item, Source, choose

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
TRUTH, META, SYNSETS = "ILSVRC2012_validation_ground_truth.txt", "meta.mat", "synsets.txt"
_CORRUPT = (tarfile.TarError, EOFError, OSError, zlib.error)


def ilsvrc_source(path: Path, classes: Sequence[str]) -> Source:
    """The folder with both image archives and the development kit (its .tar.gz, or the files in it); boxes
    from ILSVRC2012_bbox_*.tar.gz or .tgz where they are. In place of meta.mat a synsets.txt will do: a line for
    each class number from 1 on, its WNID and, after it, its name.

    ValueError naming what is missing or corrupt.
    """
    for file in (TRAIN, VAL):
        if not (path / file).is_file():
            raise ValueError(f"{path} has no {file}: training and validation archives are both needed")
    truth, wnids, words = _development_kit(path)
    try:
        with tarfile.open(path / TRAIN) as outer:
            inner = {m.name.removesuffix(".tar"): m for m in outer if m.name.endswith(".tar")}
            chosen = choose(sorted(inner), classes)
            wanted = set(chosen)
            train_counts = {wnid: _count(outer, inner[wnid]) for wnid in chosen}
        with tarfile.open(path / VAL) as archive:
            val_names = sorted(m.name for m in archive if m.isfile())
    except _CORRUPT as error:
        raise _corrupt(f"an archive of {path}", error) from error
    if empty := [wnid for wnid, count in train_counts.items() if not count]:
        raise ValueError(f"class {empty[0]} is empty: {empty[0]}.tar of {TRAIN} holds no image")
    if len(val_names) != len(truth):
        raise ValueError(f"{VAL} has {len(val_names)} images, {TRUTH} {len(truth)} lines: they must agree")
    labels = {}
    for name, number in zip(val_names, truth, strict=True):
        if number not in wnids:
            raise ValueError(f"{TRUTH} names class {number}, which the list of synsets does not have")
        if wnids[number] not in inner:
            raise ValueError(f"{name} of {VAL} is of class {wnids[number]}, which {TRAIN} does not have")
        labels[name] = wnids[number]
    boxes = _boxes(path)

    def items() -> Iterator[Item]:
        try:
            yield from _items()
        except tarfile.TarError as error:
            raise _corrupt(f"an archive of {path}", error) from error

    def _items() -> Iterator[Item]:
        with tarfile.open(path / TRAIN) as outer:
            for wnid in chosen:
                with closing(_inner(outer, inner[wnid])) as tar:
                    for member in sorted(tar.getmembers(), key=lambda m: m.name):
                        if member.isfile():
                            yield _item("train", wnid, tar, member, boxes)
        with tarfile.open(path / VAL) as archive:
            for member in sorted(archive.getmembers(), key=lambda m: m.name):
                if member.isfile() and labels[member.name] in wanted:
                    yield _item("val", labels[member.name], archive, member, boxes)

    counts = {"train": sum(train_counts.values()), "val": sum(label in wanted for label in labels.values())}
    return Source("ILSVRC-2012", chosen, {wnid: words.get(wnid, wnid) for wnid in chosen}, counts, items)


def _corrupt(what: object, error: BaseException) -> ValueError:
    reason = str(error).split("\n", 1)[0].rstrip(":")  # tarfile's go on for a line a compression
    return ValueError(f"{what} is corrupt or cut off ({reason}): fetch it again")


def _inner(outer: tarfile.TarFile, member: tarfile.TarInfo) -> tarfile.TarFile:
    stream = outer.extractfile(member)
    assert stream is not None
    return tarfile.open(fileobj=stream)


def _count(outer: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    with closing(_inner(outer, member)) as tar:
        return sum(m.isfile() for m in tar)


def _item(
    split: str,
    wnid: str,
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    boxes: dict[str, list[list[float]]],
) -> Item:
    stream = tar.extractfile(member)
    assert stream is not None
    return Item(split, member.name, wnid, stream.read(), boxes.get(Path(member.name).stem, []))


def _development_kit(path: Path) -> tuple[list[int], dict[int, str], dict[str, str]]:
    """Class number of each validation image, class number -> WNID, WNID -> words."""
    found: dict[str, bytes] = {}
    for file in sorted(path.rglob("*")):
        if file.name in (TRUTH, META, SYNSETS):
            found[file.name] = file.read_bytes()
    for kit in sorted(path.glob("ILSVRC2012_devkit*.tar.gz")):
        try:
            with tarfile.open(kit) as archive:
                for member in archive:
                    stream = archive.extractfile(member) if member.isfile() else None
                    if stream is not None and Path(member.name).name in (TRUTH, META):
                        found[Path(member.name).name] = stream.read()
        except _CORRUPT as error:
            raise _corrupt(kit, error) from error
    if TRUTH not in found or not {META, SYNSETS} & set(found):
        lacking = META if TRUTH in found else TRUTH
        raise ValueError(f"{path} has no {lacking}: put the development kit (ILSVRC2012_devkit_t12) there")
    try:
        truth = [int(line) for line in found[TRUTH].split()]
    except ValueError as error:
        raise ValueError(f"{TRUTH} of {path} must hold one class number a line ({error})") from error
    synsets = _listed_synsets(found[SYNSETS]) if SYNSETS in found else _meta_synsets(path, found[META])
    return truth, {number: wnid for number, wnid, _ in synsets}, {wnid: words for _, wnid, words in synsets}


def _listed_synsets(text: bytes) -> list[tuple[int, str, str]]:
    """Class number, WNID and words of each line; class numbers count from 1."""
    lines = [line.split(maxsplit=1) for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    return [(number, line[0], line[-1].strip()) for number, line in enumerate(lines, start=1)]


def _meta_synsets(path: Path, meta: bytes) -> list[tuple[int, str, str]]:
    """Class number, WNID and words of each synset of the development kit."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        rows = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        return [(int(row["ILSVRC2012_ID"]), str(row["WNID"]), str(row["words"])) for row in rows]
    except (MatReadError, ValueError, KeyError, TypeError, IndexError, EOFError, OSError, zlib.error) as error:
        raise _corrupt(f"{META} of {path}", error) from error


def _boxes(path: Path) -> dict[str, list[list[float]]]:
    """Stem of the image's name -> its boxes, from every annotation archive in the folder."""
    boxes: dict[str, list[list[float]]] = {}
    for archive_path in sorted([*path.glob("ILSVRC2012_bbox_*.tar.gz"), *path.glob("ILSVRC2012_bbox_*.tgz")]):
        try:
            boxes |= _boxes_of(archive_path)
        except (*_CORRUPT, ET.ParseError, ValueError) as error:
            raise _corrupt(archive_path, error) from error
    return boxes


def _boxes_of(file: Path) -> dict[str, list[list[float]]]:
    boxes = {}
    with tarfile.open(file) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.name.endswith(".xml") else None
            if stream is not None:
                root = ET.fromstring(stream.read())
                boxes[Path(member.name).stem] = [
                    [float(box.findtext(edge, "nan")) for edge in ("xmin", "ymin", "xmax", "ymax")]
                    for box in root.iter("bndbox")
                ]
    return boxes
