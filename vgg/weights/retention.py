"""Which checkpoints of a run are kept: the two newest, the best and those that are marked as an epoch's end.

`checkpoints/index.json` names the last and the best; an epoch's has a file that says so.

What is damaged is passed over with its reason: a single bad byte must not send a training back to its start.
"""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cli.errors import UserError
from pipelines.storage.folder import Folder
from vgg.weights.checkpoint import (
    Checkpoint,
    DamagedCheckpoint,
    NoCheckpoint,
    checkpoint_name,
    read,
    read_metadata,
    write_files,
)

INDEX = "checkpoints/index.json"
GENERATIONS = 2  # newest checkpoints that are kept beside the best
EPOCH = "epoch.json"
_NAME = re.compile(r"step-\d{8}")


def write(
    run: Folder,
    checkpoint: Checkpoint,
    *,
    best: bool,
    epoch: int | None = None,
    still_mine: Callable[[], None] = lambda: None,
) -> None:
    """Save a checkpoint in the run's folder, verify it, enter it in the index, delete those no longer kept.

    `epoch`: it ends that pass over the training set, and is kept for good.

    `still_mine` raises if the folder is another attempt's by now; it is called before anything that another
    attempt relies on is changed.
    """
    name = checkpoint_name(checkpoint.step)
    folder = run.child(f"checkpoints/{name}")
    if epoch is not None:
        folder.write_json(EPOCH, {"epoch": epoch})
    write_files(folder, checkpoint)
    still_mine()
    index = {"last": name, "best": name if best else read_index(run).get("best", name)}
    run.write_json(INDEX, index)
    there = names(run)
    complete = [other for other in there if run.exists(f"checkpoints/{other}/manifest.json")]
    kept = {*[other for other in complete if other <= name][-GENERATIONS:], *index.values()}
    for other in there:
        if other not in kept and (other not in complete or not is_kept_for_good(run, other)):
            still_mine()
            run.delete(f"checkpoints/{other}")


def is_kept_for_good(run: Folder, name: str) -> bool:
    """Whether a checkpoint was made at the end of a pass that is to be kept."""
    return run.child(f"checkpoints/{name}").exists(EPOCH)


def _epoch(run: Folder, name: str) -> str:
    """The pass of a checkpoint that is kept for good, for people; also where its file is damaged."""
    try:
        return f"epoch {int(json.loads(run.child(f'checkpoints/{name}').read(EPOCH))['epoch'])}"
    except (ValueError, TypeError, KeyError):
        return "an epoch's"


def names(run: Folder) -> list[str]:
    """Names of the checkpoints' folders, the oldest first, damaged and unfinished ones included."""
    there = [name for name in run.names("checkpoints") if _NAME.fullmatch(name)]
    return [name for name in there if not run.exists(f"checkpoints/{name}")]  # a file of that name is a stray


def step_of(name: str) -> int:
    """The step of the checkpoint of this name."""
    return int(name.removeprefix("step-"))


def kept(run: Folder) -> dict[str, list[str]]:
    """Name -> why it is kept, for people; the newest two are those that are complete."""
    uses: dict[str, list[str]] = {}
    complete = [name for name in names(run) if run.exists(f"checkpoints/{name}/manifest.json")]
    for name in complete[-GENERATIONS:]:
        uses.setdefault(name, []).append("newest")
    for name in complete:
        if is_kept_for_good(run, name):
            uses.setdefault(name, []).append(_epoch(run, name))
    if (best := read_index(run).get("best")) is not None:
        uses.setdefault(best, []).append("best")
    return uses


def read_index(run: Folder) -> dict[str, str]:
    """Names of the `last` and the `best` checkpoint of a run; empty if it has none.

    An index that is damaged is made anew from the checkpoints themselves.
    """
    if not run.exists(INDEX):
        return {}
    text = run.read(INDEX)
    try:
        found = json.loads(text)
        index = {key: found[key] for key in ("last", "best")}
        if all(_NAME.fullmatch(name) for name in index.values()):
            return index
    except (ValueError, KeyError, TypeError):
        pass  # read from the checkpoints below
    return _rebuilt_index(run)


def read_newest(run: Folder) -> tuple[Checkpoint | None, list[str]]:
    """The newest undamaged checkpoint of a run, and for each newer one the reason why it is skipped.

    UserError if there were checkpoints and none of them can be read: that is not a new training.
    """
    skipped: list[str] = []
    named = set(read_index(run).values())
    for name in sorted({*names(run), *named}, reverse=True):
        folder = run.child(f"checkpoints/{name}")
        if not folder.exists("manifest.json"):
            if name in named:
                skipped.append(f"{folder.described} is missing or incomplete, and index.json names it")
            continue  # otherwise it was interrupted while being written: nothing refers to it
        try:
            return read(folder), skipped
        except DamagedCheckpoint as error:
            skipped.append(str(error))
    if skipped:
        raise UserError(
            f"no checkpoint of {run.described} can be read ({'; '.join(skipped)}): restore one from a copy, "
            "or choose another --out to train from the start"
        )
    return None, []


def go_back(run: Folder, step: int, still_mine: Callable[[], None] = lambda: None) -> Checkpoint | str:
    """The newest undamaged checkpoint without update `step`, named as the last from now on; or why a training
    cannot go on from there. Newer ones are deleted with the next that is written.

    `still_mine`: see `write`.
    """
    for name in reversed(names(run)):
        folder = run.child(f"checkpoints/{name}")
        if step_of(name) >= step or not folder.exists("manifest.json"):
            continue
        with suppress(DamagedCheckpoint):
            found = read(folder)
            itself, validations = {"step": found.step}, found.metadata["validations"]
            best = max(validations, key=lambda each: each["top1"], default=itself)
            best_name = checkpoint_name(best["step"])
            if not run.exists(f"checkpoints/{best_name}/manifest.json"):
                return f"the best net before step {step:,}, {best_name} of {run.described}, is there no more"
            still_mine()
            run.write_json(INDEX, {"last": name, "best": best_name})
            return found
    return f"{run.described} has no checkpoint before step {step:,}"


def open_checkpoint(uri: str, flag: str = "", *, underway: bool = False) -> Checkpoint:
    """The checkpoint at `uri`, which is a checkpoint's folder or a run's, whose best checkpoint is used.

    `flag`: by which the user named it; `underway`: whether a job runs already. UserError if it is neither,
    DamagedCheckpoint if it is damaged.
    """
    folder = Folder(uri, flag)
    if underway:
        folder = folder.underway()
    if folder.exists("manifest.json"):
        return read(folder)
    index = read_index(folder)
    if not index:
        raise UserError(f"{folder.described} is neither a checkpoint nor a run's folder with checkpoints")
    return read(folder.child(f"checkpoints/{index['best']}"))


def rebuild_index(run: Folder) -> None:
    """Write the index anew, from the checkpoints that are there."""
    run.write_json(INDEX, _rebuilt_index(run))


def _rebuilt_index(run: Folder) -> dict[str, str]:
    accuracy: dict[str, float] = {}
    for name in names(run):
        try:
            metadata = read_metadata(run.child(f"checkpoints/{name}"))
            top1 = validated_top1(metadata, metadata["step"])
            accuracy[name] = -1.0 if top1 is None else top1
        except (NoCheckpoint, DamagedCheckpoint):
            continue
    if not accuracy:
        return {}
    return {"last": max(accuracy), "best": max(accuracy, key=lambda name: accuracy[name])}


def validated_top1(metadata: dict[str, Any], step: int) -> float | None:
    """Validation accuracy of the checkpoint of this step itself; None if it was not validated."""
    own = [v["top1"] for v in metadata.get("validations", []) if v["step"] == step]
    return own[-1] if own else None
