"""The boxes of a test on disk: blocks of images, each saved as soon as it is found, and what they are of."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import reduce

import numpy as np

from cli.errors import UserError
from cli.progress import ProgressMeter
from pipelines.storage.folder import Folder
from vgg.localisation import candidates
from vgg.localisation.candidates import ImageBoxes
from vgg.localisation.provenance import BoxProvenance
from vgg.localisation.scoring import BoxTask
from vgg.testing.scoring import blocks

FORMAT = 1
PROVENANCE = "provenance.json"

TaskRunner = Callable[[Sequence[BoxTask]], Iterable[tuple[BoxTask, list[ImageBoxes]]]]
"""Finds the boxes of tasks, on a cluster say: yields each with what was found, in any order."""


@dataclass(frozen=True)
class StoredBoxes:
    """The boxes of one test, in a result's folder."""

    folder: Folder
    provenance: BoxProvenance
    images: int
    """Tested, in blocks of `vgg.testing.scoring.BLOCK`."""

    def block(self, first: int) -> list[ImageBoxes]:
        """The images from `first` on. UserError if they are missing, damaged or of another test."""
        return candidates.read(self.folder, _file(first), self.provenance.identity)

    @classmethod
    def open(cls, path: str) -> "StoredBoxes":
        """Those in a result's folder. UserError if it has none."""
        folder = Folder(path)
        if not folder.exists(PROVENANCE):
            raise UserError(
                f"{path} holds no boxes: name a folder of results of python -m vgg.localise evaluate"
            )
        found = folder.read_json(PROVENANCE)
        try:
            if found["format"] != FORMAT:
                raise UserError(
                    f"{path}/{PROVENANCE} has format {found['format']!r}, this version reads {FORMAT}"
                )
            return cls(folder, BoxProvenance.from_json(found["provenance"]), int(found["images"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}/{PROVENANCE} is damaged ({error!r}): test again") from error


def find_boxes(
    folder: Folder, provenance: BoxProvenance, images_N: np.ndarray, keys: Sequence[str], run_tasks: TaskRunner
) -> StoredBoxes:
    """Find the boxes of these images of the split that are not saved yet, saving each block.

    `keys`: of the images, by which a saved block is recognised. Whatever `run_tasks` raises.
    """
    stored = StoredBoxes(folder, provenance, len(images_N))
    tasks = [
        BoxTask(first, tuple(images_N[first:stop].tolist()))
        for first, stop in blocks(len(images_N))
        if not _is_saved(stored, first, keys[first:stop])
    ]
    about = {"format": FORMAT, "images": len(images_N), "provenance": asdict(provenance)}
    folder.write_json(PROVENANCE, about)
    if tasks:
        with ProgressMeter("finding boxes", sum(len(task.images) for task in tasks), "images") as meter:
            for task, found in run_tasks(tasks):
                candidates.write(folder, _file(task.first), found, provenance.identity)
                meter.advance(len(task.images))
    return stored


def require_free(folder: Folder, results: Sequence[StoredBoxes], threshold: float) -> None:
    """UserError if the folder has the result of another test than this fusion."""
    if folder.exists("result.json"):
        provenance = reduce(BoxProvenance.fused, (result.provenance for result in results))
        ours = provenance.result_identity(threshold, results[0].images)
        found = folder.read_json("result.json")
        if not isinstance(found, dict) or found.get("identity") != ours:
            raise UserError(f"{folder.described} holds the result of another test: name another folder")


def _is_saved(stored: StoredBoxes, first: int, keys: Sequence[str]) -> bool:
    if not stored.folder.exists(_file(first)):
        return False
    try:
        return [image.key for image in stored.block(first)] == list(keys)
    except UserError as error:
        print(f"found again: {error}", flush=True)
        return False


def _file(first: int) -> str:
    return f"boxes/{first:08d}.arrow"
