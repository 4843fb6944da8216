"""Folders of the demo's trainings, RECIPE-1, RECIPE-2 …: the one that the next demo trains in."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from cli.errors import UserError

if TYPE_CHECKING:
    from vgg.training.plan import TrainingPlan

PROTOCOLS = ("single-crop", "dense")
"""By which the demo tests its net."""


def run_folder(runs: Path, recipe: str, data: Path) -> tuple[Path, str]:
    """The folder to train in below `runs`, and a line that says why; an empty one where none was trained in.

    The newest that holds this very training decides, as training itself would: of the same recipe, seed and
    images. If its demo was stopped, it goes on there; if it came to its end, the training is made again in a
    new folder. Where a recipe or images have changed, training would refuse the folder: it is passed over.
    """
    earlier = _numbered(runs, recipe)
    new = runs / f"{recipe}-{max(earlier, default=0) + 1}"
    same = _same(earlier, recipe, data) if earlier else None
    if same is None:
        return new, ""
    if is_trained(same) and len(list(same.glob("evaluations/*/*/result.json"))) >= len(PROTOCOLS):
        return new, f"{same} holds this demo, finished: it is made again in {new}"
    return same, f"{same} holds this demo, not finished: it goes on there"


def is_trained(folder: Path) -> bool:
    """Whether the training of a folder has come to its end."""
    return (folder / "result.json").is_file()


def _numbered(runs: Path, recipe: str) -> dict[int, Path]:
    """Number -> folder, the newest first."""
    found = {
        int(named[1]): folder
        for folder in runs.glob(f"{recipe}-*")
        if (named := re.fullmatch(rf"{re.escape(recipe)}-(\d+)", folder.name))
    }
    return dict(sorted(found.items(), reverse=True))


def _same(earlier: dict[int, Path], recipe: str, data: Path) -> Path | None:
    from pipelines.shards.manifest import read_manifest  # these import torch, which takes seconds
    from pipelines.storage.folder import Folder
    from vgg.recipes.registry import RECIPES
    from vgg.training.plan import TrainingPlan

    manifest = read_manifest(Folder(str(data), "--data"))
    plan = TrainingPlan.resolve(recipe, RECIPES[recipe][1], 0, str(data), manifest)
    return next((folder for folder in earlier.values() if _holds(folder, plan)), None)


def _holds(folder: Path, plan: "TrainingPlan") -> bool:
    from pipelines.storage.folder import Folder
    from vgg.training.run_folder import RUN, claim_folder

    if not (folder / RUN).is_file():
        return False
    try:
        claim_folder(Folder(str(folder)), plan)
    except UserError:
        return False
    return True
