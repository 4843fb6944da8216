"""What a finished training leaves for programs to read."""

import math
from dataclasses import asdict
from typing import Any

import torch

from pipelines.shards.splits import validation_split
from vgg.recipes.difference import flatten
from vgg.training.events import RunContext
from vgg.training.lineage import to_json
from vgg.training.state import StepTimer, TrainerState
from vgg.weights.state import weights_sha256


def training_result(context: RunContext, state: TrainerState, timer: StepTimer) -> dict[str, Any]:
    """The fields of result.json, without where the run is tracked."""
    job, plan = context.job, context.job.plan
    images, split = timer.steps * plan.recipe.train.batch, validation_split(plan.manifest)
    return {
        "format": 1,
        "recipe": plan.recipe_name,
        "difference": plan.difference,
        "lineage": to_json(plan.lineage),
        "fresh_layers": list(plan.fresh),
        "frozen_layers": list(plan.frozen),
        "settings": flatten(plan.recipe),
        "seed": plan.seed,
        "classes": plan.manifest.class_names,
        "data": {"folder": plan.data, "digest": plan.manifest.digest, "validated_on": split},
        "layout": asdict(job.layout),
        "device": _device_name(context.worker.device),
        "precision": context.precision.name,
        "steps": state.step,
        "losses": [loss if math.isfinite(loss) else None for loss in state.losses],
        "left_out": list(state.left_out),
        "validations": state.validations,
        "best": state.best,
        "images_per_s": images / timer.seconds if timer.seconds else None,
        "data_wait_share": timer.data_wait_seconds / timer.seconds if timer.seconds else None,
        "resumed_from": state.resumed_from,
        "weights_sha256": weights_sha256(context.net.state_dict()),
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
