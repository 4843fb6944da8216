"""Where an attempt at a training starts: at a checkpoint, or with the first weights. Rank 0 decides."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cli.errors import UserError
from pipelines.storage.folder import Folder
from vgg.net.module import VGG
from vgg.recipes.difference import START_FROM, flatten_saved
from vgg.training.data import TrainingData
from vgg.training.lineage import NetOpener, saved_lineage
from vgg.training.plan import TrainingPlan
from vgg.training.starting_weights import START_FROM_FLAG, answer_always, starting_weights
from vgg.weights.checkpoint import Checkpoint
from vgg.weights.retention import read_newest


@dataclass(frozen=True)
class Start:
    """What all workers start with."""

    precision: str
    """Of their arithmetic: fp32, bf16 or fp16."""
    checkpoint: Checkpoint | None = None
    """To resume from."""
    weights: Mapping[str, torch.Tensor] | None = None
    """Of `--model.start-from`, for a training that does not resume."""
    answer: torch.Tensor | None = None
    """What the last layer answers before the first update whatever the image; None: as it is initialised."""
    skipped: tuple[str, ...] = ()
    """Why each newer checkpoint is not used."""


def choose_start(
    run: Folder, data: TrainingData, precision: str, device: torch.device, net: VGG, open_net: NetOpener
) -> Start:
    """Read and verify what the training starts with, and set the net's weights from it.

    `precision`: of a training that does not resume. One that does goes on as it began if it was left to `auto`:
    every CPU computes fp32 and bf16, if not equally fast. UserError where the checkpoints are damaged or of
    another training, or the weights do not fit the net.
    """
    plan = data.job.plan
    checkpoint, skipped = read_newest(run)
    weights = None
    if checkpoint is not None:
        saved = checkpoint.metadata.get("precision", precision)
        if plan.recipe.train.precision == "auto" and device.type == "cpu" and saved in ("fp32", "bf16"):
            precision = saved
        _check_identity(run, checkpoint.metadata, plan, precision)
    elif plan.recipe.model.start_from is not None:
        found = open_net(plan.recipe.model.start_from, START_FROM_FLAG, underway=True)
        weights = found.weights
        if (digest := found.weights_sha256) != plan.lineage[0].weights_sha256:
            raise UserError(
                f"--model.start-from {plan.recipe.model.start_from} holds other weights ({digest[:12]}) than "
                f"at the start ({plan.lineage[0].weights_sha256[:12]}): its own training goes on"
            )
    answer = data.mean_answer() if checkpoint is None and plan.starts_at_mean_box else None
    start = Start(precision, checkpoint, weights, answer, tuple(skipped))
    set_weights(net, plan, start)
    return start


def set_weights(net: VGG, plan: TrainingPlan, start: Start) -> None:
    """The net's weights before the first update of this attempt."""
    if start.checkpoint is not None:
        net.load_state_dict(start.checkpoint.model)
    else:
        starting_weights(net, plan.recipe.model, plan.seed, start.weights, plan.fresh)
        if start.answer is not None:
            answer_always(net, start.answer)


def _check_identity(run: Folder, metadata: Mapping[str, Any], plan: TrainingPlan, precision: str) -> None:
    theirs = {"seed": metadata["seed"], "data": metadata["data"], **flatten_saved(metadata["recipe"])}
    if lineage := saved_lineage(metadata):
        theirs[START_FROM] = lineage[0].weights_sha256
    changed = plan.changes_from(theirs)
    wanted = theirs.get("train.bad_numbers", "stop"), plan.recipe.train.bad_numbers
    if metadata.get("left_out") and wanted[0] != wanted[1]:
        changed.append(f"train.bad_numbers left out updates by {wanted[0]} there, is {wanted[1]} here")
    if metadata.get("precision", precision) != precision:
        changed.append(f"train.precision is {metadata['precision']} there, {precision} here")
    if changed:
        raise UserError(
            f"the checkpoints in --out {run.uri} are of another training ({'; '.join(changed)}): "
            "choose another folder"
        )
