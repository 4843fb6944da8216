"""ILSVRC-2012 as distributed: a tar of tars for training, a tar with a ground truth for validation."""

import io
import re
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from pipelines.shards.manifest import SetAside
from pipelines.sources.archive import CORRUPT, Listing, corrupt, list_tar
from pipelines.sources.boxes import Boxes
from pipelines.sources.entries import Entry, Range, Source, choose, tolerate

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


TRUTH, META, SYNSETS = "ILSVRC2012_validation_ground_truth.txt", "meta.mat", "synsets.txt"


_NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


def ilsvrc_source(path: Path, classes: Sequence[str]) -> Source:
    """The folder with both image archives and the development kit (its .tar.gz, or the files in it); boxes as
    `Boxes.beside` finds them. In place of meta.mat a synsets.txt will do: a line for each class number from 1
    on, its WNID and, after it, its name.

    ValueError naming what is missing or corrupt.
    """
    for file in (TRAIN, VAL):
        if not (path / file).is_file():
            raise ValueError(f"{path} has no {file}: training and validation archives are both needed")
    truth, wnids, words = _development_kit(path)
    listing = Listing()
    try:
        with tarfile.open(path / TRAIN, "r:") as outer:
            inner = {}
            for member in outer:
                if member.isfile() and member.name.endswith(".tar"):
                    inner[member.name.removesuffix(".tar")] = member
                else:
                    listing.refuse(member.name, f"{TRAIN} holds it beside the archives of its classes")
            chosen = choose(sorted(inner), classes)
            train = {wnid: _list_inner(outer, inner[wnid], path / TRAIN, listing) for wnid in chosen}
        val = Listing(set_aside=listing.set_aside)
        with tarfile.open(path / VAL, "r:") as archive:
            list_tar(archive, path / VAL, val)
    except CORRUPT as error:
        raise corrupt(f"of {path}", error) from error
    if empty := [wnid for wnid, files in train.items() if not files]:
        raise ValueError(f"class {empty[0]} is empty: {empty[0]}.tar of {TRAIN} holds no image")
    labels, disagreeing = _val_labels(sorted(val.files), truth, wnids, set(inner))
    boxes = Boxes.beside(path)
    entries = [
        Entry("train", name, wnid, train[wnid][name], boxes.of(Path(name).stem))
        for wnid in chosen
        for name in sorted(train[wnid])
    ]
    wanted = set(chosen)
    entries += [
        Entry("val", name, label, val.files[name], boxes.of(Path(name).stem))
        for name, label in labels.items()
        if label in wanted
    ]
    names = {wnid: words.get(wnid, wnid) for wnid in chosen}
    set_aside = listing.set_aside + disagreeing + boxes.set_aside
    return Source("ILSVRC-2012", chosen, names, entries, set_aside)


def _list_inner(
    outer: tarfile.TarFile, member: tarfile.TarInfo, path: Path, listing: Listing
) -> dict[str, Range]:
    """The files of a class's archive, by their places in the outer one."""
    found = Listing(set_aside=listing.set_aside)
    stream = outer.extractfile(member)
    assert stream is not None
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        list_tar(tar, path, found, member.offset_data)
    return found.files


def _val_labels(
    names: list[str], truth: list[int], wnids: dict[int, str], trained_on: set[str]
) -> tuple[dict[str, str], list[SetAside]]:
    """Name -> WNID of each validation image, and what disagrees.

    A line belongs to the image that has its number in its name; where names have none, to the image in its
    place. ValueError where more than a few disagree.
    """
    numbered = {name: found for name in names if (found := _NUMBERED.fullmatch(name))}
    message = f"{VAL} has {len(names)} images, {TRUTH} {len(truth)} lines: they must agree"
    if len(numbered) == len(names):
        lines = {name: int(found[1]) for name, found in numbered.items()}
    elif len(names) == len(truth):
        lines = {name: line for line, name in enumerate(names, start=1)}
    else:
        raise ValueError(message)
    missing = sorted(set(range(1, len(truth) + 1)) - set(lines.values()))
    unmatched = [
        SetAside("val", f"ILSVRC2012_val_{line:08d}.JPEG", f"{TRUTH} has it, {VAL} does not")
        for line in missing
    ]
    unmatched += [
        SetAside("val", name, f"{TRUTH} has no line {line}")
        for name, line in lines.items()
        if not 1 <= line <= len(truth)
    ]
    disagreeing = tolerate(unmatched, len(truth), message)
    labels, unknown = {}, []
    for name, line in lines.items():
        if not 1 <= line <= len(truth):
            continue
        wnid = wnids.get(truth[line - 1])
        if wnid is None:
            reason = f"{TRUTH} names class {truth[line - 1]}, which the list of synsets does not have"
        elif wnid not in trained_on:
            reason = f"{name} of {VAL} is of class {wnid}, which {TRAIN} does not have"
        else:
            labels[name] = wnid
            continue
        unknown.append(SetAside("val", name, reason))
    return labels, disagreeing + tolerate(unknown, len(truth), unknown[0].reason if unknown else "")


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
        except CORRUPT as error:
            raise corrupt(kit, error) from error
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
        raise corrupt(f"{META} of {path}", error) from error
