"""Between a running training and its checkpoints."""

from dataclasses import asdict, replace

import torch

from vgg.net.module import VGG
from vgg.net.precision import MixedPrecision
from vgg.training.lineage import to_json
from vgg.training.plan import TrainingPlan
from vgg.training.schedule import PlateauState
from vgg.training.state import TrainerState
from vgg.weights.checkpoint import Checkpoint
from vgg.weights.state import Copies, model_state, optimizer_state, restore_optimizer


def to_checkpoint(
    plan: TrainingPlan,
    net: VGG,
    optimizer: torch.optim.Optimizer,
    precision: MixedPrecision,
    state: TrainerState,
    copies: Copies | None = None,
) -> Checkpoint:
    """A copy of everything that the training needs to continue, which later updates leave alone; the next
    into `copies` does not."""
    return Checkpoint(
        state.step,
        model_state(net, copies),
        optimizer_state(optimizer, copies),
        torch.tensor(state.losses, dtype=torch.float32),
        {
            "recipe": asdict(plan.recipe),
            "recipe_name": plan.recipe_name,
            "seed": plan.seed,
            "data": plan.manifest.digest,
            "lineage": to_json(plan.lineage),
            "classes": plan.manifest.class_names,
            "class_ids": plan.manifest.classes,
            "data_name": plan.manifest.source,
            "mean_rgb": plan.mean_rgb,
            "validations": list(state.validations),
            "hits": state.hits,
            "left_out": list(state.left_out),
            "plateau": asdict(state.plateau),
            "resumed_from": list(state.resumed_from),
            "precision": precision.name,
            "scaler": precision.scaler.state_dict(),
        },
    )


def restore(
    checkpoint: Checkpoint, optimizer: torch.optim.Optimizer, precision: MixedPrecision
) -> TrainerState:
    """Put the optimizer's buffers and the loss scale back; the state to continue from."""
    restore_optimizer(optimizer, checkpoint.optimizer)
    if scaler := checkpoint.metadata["scaler"]:  # empty but for float16
        precision.scaler.load_state_dict(scaler)
    return TrainerState(
        checkpoint.step,
        checkpoint.losses.tolist(),
        checkpoint.metadata["validations"],
        PlateauState(**checkpoint.metadata["plateau"]),
        [*checkpoint.metadata["resumed_from"], checkpoint.step],
        hits=checkpoint.metadata.get("hits"),
        left_out=tuple(checkpoint.metadata.get("left_out", ())),
    )


def go_back(
    checkpoint: Checkpoint,
    net: VGG,
    optimizer: torch.optim.Optimizer,
    precision: MixedPrecision,
    state: TrainerState,
) -> TrainerState:
    """Put a running training back to an earlier checkpoint of it; the state to continue from, with what `state`
    knows of this attempt."""
    net.load_state_dict(checkpoint.model)
    earlier = restore(checkpoint, optimizer, precision)
    return replace(earlier, resumed_from=state.resumed_from, left_out=state.left_out)
