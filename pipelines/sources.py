"""Where images come from: four layouts, one list of files with labels.

Each source is a `Source`: its classes, and its entries in an order that depends on the source alone.
Names that begin with a dot are passed over; whatever else is no image is set aside, here or when it is decoded.
"""

import hashlib
import io
import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.boxes import FOLDERS, Boxes
from pipelines.ilsvrc import ilsvrc_source
from pipelines.items import Embedded, Entry, Range, Source, choose
from pipelines.shards import SetAside
from pipelines.tiny import ARCHIVES, tiny_archive, tiny_folder

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def open_source(
    name: str, *, classes: Sequence[str] = (), val_share: float = 0.1, spool: Path | None = None
) -> Source:
    """Recognise a source: `digits`, an archive of Tiny ImageNet, or a folder of one of the three layouts.

    `classes`: identifiers of the classes to take, or a single number for the first so many; empty takes all.
    `spool`: file that a compressed archive is decompressed to; by default a temporary one that goes with the
    source. ValueError where the source is missing, empty, of no known layout or of two.
    """
    if spool is not None or not Path(name).is_file():
        return _recognise(name, classes, val_share, spool or Path(os.devnull)).tidied()
    handle, temporary = tempfile.mkstemp(prefix="spool-")
    os.close(handle)
    try:
        source = _recognise(name, classes, val_share, Path(temporary)).tidied()
    except BaseException:
        Path(temporary).unlink()
        raise
    weakref.finalize(source, Path(temporary).unlink, missing_ok=True)
    return source


def _recognise(name: str, classes: Sequence[str], val_share: float, spool: Path) -> Source:
    if name == "digits":
        return digits_source(classes)
    path = Path(name)
    if not path.exists():
        raise ValueError(f"no file or folder {path} (the embedded data set is called: digits)")
    if path.is_file():
        if not name.endswith(ARCHIVES):
            raise ValueError(f"{path}: of single files only archives of Tiny ImageNet (.tar.xz) are read")
        return tiny_archive(path, classes, spool)
    layouts: dict[str, Callable[[], Source]] = {}
    if (path / "ILSVRC2012_img_train.tar").is_file() or (path / "ILSVRC2012_img_val.tar").is_file():
        layouts["ILSVRC-2012 as distributed (ILSVRC2012_img_*.tar)"] = lambda: ilsvrc_source(path, classes)
    if (path / "wnids.txt").is_file():
        layouts["Tiny ImageNet (wnids.txt)"] = lambda: tiny_folder(path, classes)
    folders = sorted(p for p in path.iterdir() if p.is_dir() and p.name[0] != "." and p.name not in FOLDERS)
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


def digits_source(classes: Sequence[str]) -> Source:
    """Scikit-learn's 1797 handwritten digits, four times enlarged, as JPEG files; every fifth of a class is
    held out."""
    from sklearn.datasets import load_digits

    data = load_digits()
    chosen = choose([str(digit) for digit in range(10)], classes)
    entries: dict[str, list[Entry]] = {"train": [], "val": []}
    for label in chosen:
        for place, index in enumerate(np.flatnonzero(data.target == int(label))):
            pixels = (data.images[index] * (255 / 16)).round().astype(np.uint8)
            image = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR)
            file = io.BytesIO()
            image.convert("RGB").save(file, "JPEG", quality=95)
            split = "val" if place % 5 == 0 else "train"
            key = f"{split}/{label}/{index:04d}.jpg"
            entries[split].append(Entry(split, key, label, Embedded(file.getvalue())))
    return Source("scikit-learn handwritten digits", chosen, {}, entries["train"] + entries["val"])
