"""Recognises the layout of a source and lists its labelled files.

Names that begin with a dot are ignored; other files that are not images are skipped, here or when decoded.
"""

import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from cli.errors import UserError
from pipelines.sources.boxes import FOLDERS
from pipelines.sources.digits import digits_source
from pipelines.sources.ilsvrc import ilsvrc_source
from pipelines.sources.image_folder import class_folders_source, split_folders_source
from pipelines.sources.source import IMAGE_SUFFIXES, Source
from pipelines.sources.tiny_imagenet import ARCHIVES, tiny_imagenet_archive, tiny_imagenet_folder
from pipelines.sources.voc import voc_source, year_of
from pipelines.sources.voc_actions import actions_source, year_of_actions


def open_source(
    name: str, *, classes: Sequence[str] = (), val_share: float = 0.1, spool: Path | None = None
) -> Source:
    """Open `digits`, an archive of Tiny ImageNet, or a folder of one of the six known layouts.

    `classes`: identifiers of the classes to pack, or one number N for the first N; empty for all. `val_share`:
    share of each class's images held out if the source has no splits. `spool`: file that a compressed archive
    is decompressed to; by default a temporary one, deleted with the source. UserError if the source is missing,
    empty, or of no known layout or of several.
    """
    if spool is not None or not Path(name).is_file():
        return _recognise(name, classes, val_share, spool or Path(os.devnull)).with_unique_names()
    handle, temporary = tempfile.mkstemp(prefix="spool-")
    os.close(handle)
    try:
        source = _recognise(name, classes, val_share, Path(temporary)).with_unique_names()
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
        raise UserError(f"no file or folder {path} (the embedded data set is called: digits)")
    if path.is_file():
        if not name.endswith(ARCHIVES):
            raise UserError(f"{path}: of single files only archives of Tiny ImageNet (.tar.xz) are read")
        return tiny_imagenet_archive(path, classes, spool)
    if (year := year_of_actions(path)) is not None:
        return actions_source(year, classes)
    if (year := year_of(path)) is not None:
        return voc_source(year, classes)
    layouts = _layouts(path, classes, val_share)
    if not layouts:
        loose = sum(file.suffix.lower() in IMAGE_SUFFIXES for file in path.iterdir())
        seen = f"; {loose:,} images lie in it without a folder of their class" if loose else ""
        raise UserError(
            f"{path} has no layout that is known: expected train/CLASS/image and val/CLASS/image, "
            f"CLASS/image, Tiny ImageNet, ILSVRC-2012 or PASCAL VOC as distributed{seen}"
        )
    if len(layouts) > 1:
        raise UserError(f"{path} has two layouts at once, {' and '.join(layouts)}: separate them")
    return next(iter(layouts.values()))()


def _layouts(path: Path, classes: Sequence[str], val_share: float) -> dict[str, Callable[[], Source]]:
    """Every layout that the folder has, by its description."""
    layouts: dict[str, Callable[[], Source]] = {}
    if (path / "ILSVRC2012_img_train.tar").is_file() or (path / "ILSVRC2012_img_val.tar").is_file():
        layouts["ILSVRC-2012 as distributed (ILSVRC2012_img_*.tar)"] = lambda: ilsvrc_source(path, classes)
    if (path / "wnids.txt").is_file():
        layouts["Tiny ImageNet (wnids.txt)"] = lambda: tiny_imagenet_folder(path, classes)
    folders = sorted(p for p in path.iterdir() if p.is_dir() and p.name[0] != "." and p.name not in FOLDERS)
    if layouts:  # a distributed set has folders of its own: only images where another layout has them count
        with_folders = [p for p in folders if p.name == "train" and any(map(_has_images, p.iterdir()))]
        with_files = [p for p in folders if _has_images(p)]
    else:
        with_folders = [p for p in folders if any(c.is_dir() and c.name[0] != "." for c in p.iterdir())]
        with_files = [p for p in folders if any(c.is_file() and c.name[0] != "." for c in p.iterdir())]
    if with_folders:
        layouts[f"split folders of class folders ({with_folders[0].name}/…)"] = lambda: split_folders_source(
            path, with_folders, classes
        )
    if with_files:
        layouts[f"class folders of images ({with_files[0].name}/…)"] = lambda: class_folders_source(
            path, folders, classes, val_share
        )
    return layouts


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and any(f.suffix.lower() in IMAGE_SUFFIXES for f in folder.iterdir())
