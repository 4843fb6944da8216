"""Where images come from: four layouts, one stream of files with labels.

Each source is a `Source`: its classes, its splits, and a generator of `Item`s in an order that depends on the
source alone.
"""

import hashlib
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.ilsvrc import ilsvrc_source
from pipelines.items import Item, Source, choose

TINY_ARCHIVES = (".tar.xz", ".tar.gz", ".tgz", ".tar", ".zip")
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def open_source(name: str, *, classes: Sequence[str] = (), val_share: float = 0.1) -> Source:
    """Recognise a source: `digits`, an archive of Tiny ImageNet, or a folder of one of the three layouts.

    `classes`: identifiers of the classes to take, or a single number for the first so many; empty takes all.
    ValueError where the source is missing, empty, of no known layout or of two.
    """
    if name == "digits":
        return digits_source(classes)
    path = Path(name)
    if not path.exists():
        raise ValueError(f"no file or folder {path} (the embedded data set is called: digits)")
    if path.is_file():
        if not name.endswith(TINY_ARCHIVES):
            raise ValueError(f"{path}: of single files only archives of Tiny ImageNet (.tar.xz) are read")
        return tiny_imagenet_source(str(path), _archive_files(path), classes)
    layouts: dict[str, Callable[[], Source]] = {}
    if (path / "ILSVRC2012_img_train.tar").is_file() or (path / "ILSVRC2012_img_val.tar").is_file():
        layouts["ILSVRC-2012 as distributed (ILSVRC2012_img_*.tar)"] = lambda: ilsvrc_source(path, classes)
    if (path / "wnids.txt").is_file():
        files = {str(f.relative_to(path)): f.read_bytes for f in path.rglob("*") if f.is_file()}
        layouts["Tiny ImageNet (wnids.txt)"] = lambda: tiny_imagenet_source(str(path), files, classes)
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if layouts:  # a distributed set has folders of its own: beside it only images in another's places count
        with_folders = [p for p in folders if p.name == "train" and any(map(_has_images, p.iterdir()))]
        with_files = [p for p in folders if _has_images(p)]
    else:
        with_folders = [p for p in folders if any(c.is_dir() for c in p.iterdir())]
        with_files = [p for p in folders if any(c.is_file() and c.name[0] != "." for c in p.iterdir())]
    if with_folders:
        layouts[f"split folders of class folders ({with_folders[0].name}/…)"] = lambda: split_folders_source(
            path, with_folders, classes
        )
    if with_files:
        layouts[f"class folders of images ({with_files[0].name}/…)"] = lambda: class_folders_source(
            path, folders, classes, val_share
        )
    if not layouts:
        raise ValueError(
            f"{path} has no layout that is known: wanted train/CLASS/image and val/CLASS/image, "
            "CLASS/image, Tiny ImageNet or ILSVRC-2012 as distributed"
        )
    if len(layouts) > 1:
        raise ValueError(f"{path} has two layouts at once, {' and '.join(layouts)}: separate them")
    return next(iter(layouts.values()))()


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and any(f.suffix.lower() in IMAGE_SUFFIXES for f in folder.iterdir())


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

    def items() -> Iterator[Item]:
        for name, found in there.items():
            for label in chosen:
                for file in found.get(label, []):
                    yield Item(name, str(file.relative_to(path)), label, file.read_bytes())

    counts = {name: sum(len(found.get(c, [])) for c in chosen) for name, found in there.items()}
    return Source(f"image folder {path.name}", chosen, {}, counts, items)


def class_folders_source(path: Path, folders: list[Path], classes: Sequence[str], val_share: float) -> Source:
    """CLASS/image; `val_share` of the images, chosen by the hash of their names, are held out."""
    if not 0 < val_share < 1:
        raise ValueError(f"--val-share {val_share} must lie between 0 and 1")
    there = _class_folders(path)
    chosen = choose(sorted(there), classes)
    labelled = [(label, file) for label in chosen for file in there[label]]

    def split_of(file: Path) -> str:
        key = str(file.relative_to(path)).encode()
        held_out = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") < val_share * 2**64
        return "val" if held_out else "train"

    split = {file: split_of(file) for _, file in labelled}

    def items() -> Iterator[Item]:
        for name in ("train", "val"):
            for label, file in labelled:
                if split[file] == name:
                    yield Item(name, str(file.relative_to(path)), label, file.read_bytes())

    counts = {name: sum(s == name for s in split.values()) for name in ("train", "val")}
    return Source(f"image folder {path.name}", chosen, {}, counts, items)


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """Class -> its files, sorted; ValueError naming a class without any."""
    found = {}
    for sub in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        files = sorted(f for f in sub.rglob("*") if f.is_file() and not f.name.startswith("."))
        if not files:
            raise ValueError(f"class folder {sub} is empty: put images there or remove it")
        found[sub.name] = files
    return found


def tiny_imagenet_source(name: str, files: dict[str, Callable[[], bytes]], classes: Sequence[str]) -> Source:
    """Tiny ImageNet as distributed: wnids.txt, words.txt, train/WNID/images, val/images with annotations.

    ValueError naming the file that is missing, or the line that is malformed.
    """

    def table(file: str, columns: int) -> list[list[str]]:
        if file not in files:
            raise ValueError(f"{name} is not Tiny ImageNet as distributed, or not all of it: it has no {file}")
        lines = files[file]().decode("utf-8", "replace").splitlines()
        rows = [line.split("\t") for line in lines if line]
        if short := [row for row in rows if len(row) < columns]:
            raise ValueError(f"{name}: a line of {file} has fewer than {columns} columns: {short[0]}")
        return rows

    listed = sorted(row[0] for row in table("wnids.txt", 1))
    chosen = choose(listed, classes)
    words = {row[0]: row[1] for row in table("words.txt", 2)}
    rows: list[tuple[str, str, str, list[float]]] = []
    for wnid in chosen:
        file = f"train/{wnid}/{wnid}_boxes.txt"
        boxes = table(file, 5)
        if not boxes:
            raise ValueError(f"{name}: class {wnid} is empty: {file} lists no image")
        rows += [("train", f"train/{wnid}/images/{row[0]}", wnid, _box(file, row[1:5])) for row in boxes]
    file = "val/val_annotations.txt"
    for row in table(file, 6):
        if row[1] not in listed:
            raise ValueError(f"{name}: {file} has class {row[1]}, which wnids.txt does not list")
        if row[1] in chosen:
            rows.append(("val", f"val/images/{row[0]}", row[1], _box(file, row[2:6])))
    if missing := [key for _, key, _, _ in rows if key not in files]:
        raise ValueError(f"{name} lacks {len(missing)} images it lists, e.g. {missing[0]}: fetch it again")

    def items() -> Iterator[Item]:
        for split, key, label, box in rows:
            yield Item(split, key, label, files[key](), [box])

    counts = {split: sum(row[0] == split for row in rows) for split in ("train", "val")}
    names = {wnid: words.get(wnid, wnid) for wnid in chosen}
    return Source("Tiny ImageNet", chosen, names, counts, items)


def _box(file: str, edges: list[str]) -> list[float]:
    try:
        return [float(edge) for edge in edges]
    except ValueError as error:
        raise ValueError(f"{file}: a box must be four numbers, not {edges}") from error


def _archive_files(path: Path) -> dict[str, Callable[[], bytes]]:
    """Every file of an archive, named from the folder of wnids.txt on, in memory: Tiny ImageNet is 0.25 GB.

    Nothing is unpacked to disk, whatever the names. ValueError where the archive is corrupt.
    """
    try:
        found = dict(_members(path))
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"archive {path} is corrupt or cut off ({reason}): fetch it again") from error
    tops = [name.removesuffix("wnids.txt") for name in found if name.split("/")[-1] == "wnids.txt"]
    top = min(tops, key=len, default="")
    return {name.removeprefix(top): partial(bytes, data) for name, data in found.items()}


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            yield from ((member.filename, packed.read(member)) for member in packed.infolist())
        return
    with tarfile.open(path) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isfile() else None
            if stream is not None:
                yield member.name, stream.read()


def digits_source(classes: Sequence[str]) -> Source:
    """Scikit-learn's 1797 handwritten digits, four times enlarged, as JPEG files; every fifth of a class is
    held out."""
    from sklearn.datasets import load_digits

    data = load_digits()
    chosen = choose([str(digit) for digit in range(10)], classes)
    splits: dict[str, list[tuple[str, int]]] = {"train": [], "val": []}
    for label in chosen:
        for place, index in enumerate(np.flatnonzero(data.target == int(label))):
            splits["val" if place % 5 == 0 else "train"].append((label, int(index)))

    def items() -> Iterator[Item]:
        for split, entries in splits.items():
            for label, index in entries:
                pixels = (data.images[index] * (255 / 16)).round().astype(np.uint8)
                image = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR)
                file = io.BytesIO()
                image.convert("RGB").save(file, "JPEG", quality=95)
                yield Item(split, f"{split}/{label}/{index:04d}.jpg", label, file.getvalue())

    counts = {split: len(entries) for split, entries in splits.items()}
    return Source("scikit-learn handwritten digits", chosen, {}, counts, items)
