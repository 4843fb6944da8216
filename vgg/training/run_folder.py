"""The folder of a run belongs to one training: run.json says which."""

import uuid
from collections.abc import Mapping
from typing import Any

from cli.errors import UserError
from pipelines.storage.folder import Folder
from vgg.training.plan import TrainingPlan
from vgg.weights import checkpoint, retention


def claim_folder(out: Folder, plan: TrainingPlan, software: Mapping[str, str] | None = None) -> str:
    """Make the folder this training's, or see that it already is; the run's uid.

    `software`: name -> version of what this attempt runs. run.json lists that of every attempt, each once,
    this one's last; it is no part of a training's identity.

    UserError where it cannot be written, where it belongs to another recipe, seed or data set, or where its
    training has gone further than this one is to go.
    """
    if not out.exists("run.json"):
        uid = uuid.uuid4().hex
        claim = {"uid": uid, "recipe": plan.recipe_name, "identity": plan.identity}
        _write(out, {**claim, "software": [dict(software)] if software else []})
        return uid
    claimed = out.read_json("run.json")
    changed = plan.changes_from(claimed["identity"])
    if changed:
        raise UserError(f"--out {out.uri} holds another training ({'; '.join(changed)}): choose another folder")
    last = retention.read_index(out).get("last")
    if last is not None and last > checkpoint.checkpoint_name(plan.total_steps):
        raise UserError(
            f"--out {out.uri} is at {last}, past the {plan.total_steps} steps asked for: choose another folder"
        )
    versions = claimed.get("software", [])
    if software and software not in versions[-1:]:
        earlier = [each for each in versions if each != software]
        _write(out, {**claimed, "software": [*earlier, dict(software)]})
    return claimed["uid"]


def _write(out: Folder, claim: dict[str, Any]) -> None:
    try:
        out.write_json("run.json", claim)
    except OSError as error:
        raise UserError(f"--out {out.uri} cannot be written: {error}") from error
