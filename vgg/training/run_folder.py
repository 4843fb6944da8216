"""The folder of a run belongs to one training: run.json says which."""

import uuid

from cli.errors import UserError
from pipelines.storage.folder import Folder
from vgg.training.plan import TrainingPlan
from vgg.weights import checkpoint, retention


def claim_folder(out: Folder, plan: TrainingPlan) -> str:
    """Make the folder this training's, or see that it already is; the run's uid.

    UserError where it cannot be written, where it belongs to another recipe, seed or data set, or where its
    training has gone further than this one is to go.
    """
    if not out.exists("run.json"):
        uid = uuid.uuid4().hex
        try:
            out.write_json("run.json", {"uid": uid, "recipe": plan.recipe_name, "identity": plan.identity})
        except OSError as error:
            raise UserError(f"--out {out.uri} cannot be written: {error}") from error
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
    return claimed["uid"]
