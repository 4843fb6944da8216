"""What a net is trained for, classes or boxes: the only thing in which two trainings' loops differ."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from pipelines.loading.batch import Batch
from vgg.boxes.regression import BoxRegression, box_targets
from vgg.boxes.scores import BoxScores, validate_boxes
from vgg.net.architecture import Architecture
from vgg.training.objective import Classification, Objective
from vgg.training.validation import ValidationScores, validate


@dataclass(frozen=True)
class Task:
    """Targets, loss and validation."""

    objective: Objective
    targets: Callable[[Batch], torch.Tensor]
    """Of a batch's rows."""
    validate: Callable[..., ValidationScores | BoxScores]
    """Called with net, batches, device and precision."""


def task_of(architecture: Architecture) -> Task:
    """That of a net's last layer."""
    if architecture.boxes is None:
        of_classes = partial(validate, classes=architecture.classes)
        return Task(Classification(), lambda batch: batch.labels_B, of_classes)
    objective = BoxRegression(architecture.boxes)
    return Task(objective, box_targets, partial(validate_boxes, objective=objective))
