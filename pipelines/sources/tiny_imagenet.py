"""Tiny ImageNet as distributed: an archive, or the folder that it unpacks to."""

from collections.abc import Sequence
from pathlib import Path

from pipelines.shards.manifest import SetAside
from pipelines.sources.archive import Listing, open_archive
from pipelines.sources.entries import Entry, Range, Source, choose, tolerate

ARCHIVES = (".tar.xz", ".tar.gz", ".tgz", ".tar", ".zip")


WNIDS, WORDS, VAL = "wnids.txt", "words.txt", "val/val_annotations.txt"


def tiny_imagenet_archive(path: Path, classes: Sequence[str], spool: Path) -> Source:
    """From the archive; a compressed one is decompressed to `spool`. Names count from the folder of wnids.txt
    on."""
    listing = open_archive(path, spool)
    tops = [name.removesuffix(WNIDS) for name in listing.files if name.split("/")[-1] == WNIDS]
    top = min(tops, key=len, default="")
    listing.files = {name.removeprefix(top): place for name, place in listing.files.items()}
    return tiny_imagenet_source(str(path), listing, classes)


def tiny_imagenet_folder(path: Path, classes: Sequence[str]) -> Source:
    """From the unpacked folder."""
    listing = Listing()
    for file in sorted(path.rglob("*")):
        name = str(file.relative_to(path))
        if file.is_file():
            listing.files[name] = Range.whole(file)
        elif not file.is_dir():
            listing.refuse(name, "a broken link or a special file")
    return tiny_imagenet_source(str(path), listing, classes)


def tiny_imagenet_source(name: str, listing: Listing, classes: Sequence[str]) -> Source:
    """wnids.txt, words.txt, train/WNID/images with boxes, val/images with annotations; test has no labels.

    Images that no line names, and lines that name no image, are set aside. ValueError naming the file that is
    missing, the line that is malformed, or how many lines disagree where they are too many.
    """
    files = listing.files

    def table(file: str, columns: int) -> list[list[str]]:
        if file not in files:
            raise ValueError(f"{name} is not Tiny ImageNet as distributed, or not all of it: it has no {file}")
        lines = files[file].read().decode("utf-8", "replace").splitlines()
        rows = [line.split("\t") for line in lines if line]
        if short := [row for row in rows if len(row) < columns]:
            raise ValueError(f"{name}: a line of {file} has fewer than {columns} columns: {short[0]}")
        return rows

    listed = sorted({row[0] for row in table(WNIDS, 1)})
    chosen = choose(listed, classes)
    words = {row[0]: row[1] for row in table(WORDS, 2)}
    rows: list[tuple[str, str, str, tuple[float, ...]]] = []
    for wnid in chosen:
        file = f"train/{wnid}/{wnid}_boxes.txt"
        boxes = table(file, 5)
        if not boxes:
            raise ValueError(f"{name}: class {wnid} is empty: {file} lists no image")
        rows += [("train", f"train/{wnid}/images/{row[0]}", wnid, _box(file, row[1:5])) for row in boxes]
    annotations = table(VAL, 6)
    stray = [row for row in annotations if row[1] not in listed]
    set_aside = listing.set_aside + tolerate(
        [SetAside("val", f"val/images/{row[0]}", f"class {row[1]} is not in {WNIDS}") for row in stray],
        len(annotations),
        f"{name}: {VAL} has class {stray[0][1] if stray else ''}, which {WNIDS} does not list",
    )
    rows += [
        ("val", f"val/images/{row[0]}", row[1], _box(VAL, row[2:6])) for row in annotations if row[1] in chosen
    ]
    missing = [row for row in rows if row[1] not in files]
    set_aside += tolerate(
        [SetAside(split, key, "it is listed but not there") for split, key, _, _ in missing],
        len(rows),
        f"{name} lacks {len(missing)} images it lists, e.g. {missing[0][1] if missing else ''}: fetch it again",
    )
    named = {row[1] for row in rows} | {f"val/images/{row[0]}" for row in annotations}
    set_aside += [_unlisted(key) for key in files if key not in named and _is_image(key, listed, chosen)]
    return Source(
        "Tiny ImageNet",
        chosen,
        {wnid: words.get(wnid, wnid) for wnid in chosen},
        [Entry(split, key, label, files[key], (box,)) for split, key, label, box in rows if key in files],
        set_aside,
    )


def _is_image(key: str, listed: list[str], chosen: list[str]) -> bool:
    """Whether a file lies where images of the chosen classes lie, or under a class that is not listed."""
    parts = key.split("/")
    if parts[0] == "val":
        return len(parts) > 2
    return parts[0] == "train" and len(parts) > 3 and (parts[1] in chosen or parts[1] not in listed)


def _unlisted(key: str) -> SetAside:
    split = key.split("/")[0]
    label_file = VAL if split == "val" else f"the class's {key.split('/')[1]}_boxes.txt"
    return SetAside(split, key, f"no line of {label_file} names it")


def _box(file: str, edges: list[str]) -> tuple[float, ...]:
    try:
        return tuple(float(edge) for edge in edges)
    except ValueError as error:
        raise ValueError(f"{file}: a box must be four numbers, not {edges}") from error
