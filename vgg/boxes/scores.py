"""Validation of a box net: the centre crop of every image that has a box, once, with its true class.

Shapes: B images of a batch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cluster.collectives import sum_over_workers
from pipelines.loading.batch import Batch, to_input
from vgg.boxes.geometry import LOCATED_IOU, overlaps, to_edges
from vgg.boxes.regression import BoxRegression, box_targets, boxes_of_classes
from vgg.net.precision import MixedPrecision


@dataclass(frozen=True)
class BoxScores:
    """Sums over every image seen, by all workers."""

    seen: int
    located: int
    """Images whose box overlaps with the one that a training would take by more than half."""
    mean_iou: float
    """Mean overlap."""
    loss: float
    """Mean Euclidean loss, in squared sides of the crop."""

    @property
    def top1_accuracy(self) -> float:
        """Share of images that are located, which the schedule and the best checkpoint go by."""
        return self.located / self.seen

    def summary(self) -> dict[str, Any]:
        """What a training keeps of a validation."""
        located = {"top1": self.top1_accuracy, "top5": None}
        return {"loss": self.loss, **located, "mean_iou": self.mean_iou, "seen": self.seen}

    def metrics(self) -> dict[str, float]:
        """Curves of a tracked run."""
        return {
            "val/loss": self.loss,
            "val/located": self.top1_accuracy,
            "val/location_error": 100 * (1 - self.top1_accuracy),
            "val/mean_iou": self.mean_iou,
        }


@torch.no_grad()
def validate_boxes(
    net: nn.Module,
    batches: Iterable[Batch],
    *,
    objective: BoxRegression,
    device: torch.device,
    precision: MixedPrecision,
) -> BoxScores:
    """Score one crop of each image; `batches` are this worker's share, the scores are over all workers'."""
    sums = torch.zeros(4, dtype=torch.float64, device=device)  # seen, located, overlap, loss
    for batch in batches:
        with precision.autocast():
            outputs_BK = net(to_input(batch)).flatten(1)
        outputs_BK, targets_B5 = outputs_BK.float(), box_targets(batch)
        found_B4 = to_edges(boxes_of_classes(outputs_BK, batch.labels_B, objective.boxes))
        iou_B = overlaps(found_B4, to_edges(targets_B5[:, 1:])).double()
        loss = objective.loss(outputs_BK, targets_B5).double()
        seen = torch.tensor(len(iou_B), dtype=torch.float64, device=device)
        sums += torch.stack([seen, (iou_B > LOCATED_IOU).sum().double(), iou_B.sum(), loss])
    seen, located, overlap, loss = sum_over_workers(sums).tolist()
    return BoxScores(round(seen), round(located), overlap / max(seen, 1), loss / max(seen, 1))
