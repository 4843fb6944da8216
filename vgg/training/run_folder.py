"""The folder of a run belongs to one training: run.json says which."""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cli.errors import UserError
from pipelines.storage.folder import Folder
from vgg.training.plan import TrainingPlan
from vgg.weights import checkpoint, retention

FORMAT = 1
RUN = "run.json"


@contextmanager
def claimed_folder(out: Folder, plan: TrainingPlan, software: Mapping[str, str] | None = None) -> Iterator[str]:
    """The run's uid, within a folder that is this training's; see `claim_folder`.

    Where the block raises UserError before the training has saved anything, nothing is left that it made.
    """
    missing, was_claimed = out.missing_folders(), out.exists(RUN)
    uid = claim_folder(out, plan, software)
    try:
        yield uid
    except UserError:
        if not was_claimed and not retention.names(out):
            out.delete_file(RUN)
            out.remove_empty(missing)
        raise


def claim_folder(out: Folder, plan: TrainingPlan, software: Mapping[str, str] | None = None) -> str:
    """Make the folder this training's, or see that it already is; the run's uid.

    `software`: name -> version of what this attempt runs. run.json lists that of every attempt, each once,
    this one's last; it is no part of a training's identity.

    UserError where it cannot be written, where it belongs to another recipe, seed or data set, or where its
    training has gone further than this one is to go.
    """
    out.require_writable()
    if not out.exists(RUN):
        uid = uuid.uuid4().hex
        claim = {"format": FORMAT, "uid": uid, "recipe": plan.recipe_name, "identity": plan.identity}
        out.write_json(RUN, {**claim, "software": [dict(software)] if software else []})
        return uid
    claimed = _read_claim(out)
    changed = plan.changes_from(claimed["identity"])
    if changed:
        raise UserError(f"{out.described} holds another training ({'; '.join(changed)}): choose another folder")
    last = retention.read_index(out).get("last")
    if last is not None and last > checkpoint.checkpoint_name(plan.total_steps):
        raise UserError(
            f"{out.described} is at {last}, past the {plan.total_steps} steps asked for: choose another folder"
        )
    versions = claimed.get("software", [])
    if software and software not in versions[-1:]:
        earlier = [each for each in versions if each != software]
        out.write_json(RUN, {**claimed, "software": [*earlier, dict(software)]})
    return claimed["uid"]


def _read_claim(out: Folder) -> dict[str, Any]:
    claimed = out.read_json(RUN)
    found = claimed.get("format", FORMAT) if isinstance(claimed, dict) else None
    if found is not None and found != FORMAT:
        raise UserError(
            f"{out.described}/{RUN} has format {found!r}, this version reads {FORMAT}: choose another folder"
        )
    if (
        found is None
        or not isinstance(claimed.get("uid"), str)
        or not isinstance(claimed.get("identity"), dict)
        or not isinstance(claimed.get("software", []), list)
    ):
        raise UserError(
            f"{out.described}/{RUN} is damaged (it lacks uid or identity): choose another folder, or restore it"
        )
    return claimed
