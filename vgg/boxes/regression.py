"""The box that a net answers, and its Euclidean loss (paper, appendix A.1).

The unit is the crop's side: a box of (0.5, 0.5, 1, 1) is the crop. The paper does not say its own.

Shapes: b rows of the global batch on this worker, K outputs of the net, 4: centre x, centre y, width, height;
targets_b5: class, then box.
"""

from dataclasses import dataclass

import torch

from pipelines.loading.batch import Batch
from vgg.boxes.geometry import LOCATED_IOU, overlaps, to_centres, to_edges
from vgg.net.architecture import Boxes


def box_targets(batch: Batch) -> torch.Tensor:
    """targets_b5 of a batch that carries boxes."""
    assert batch.boxes_B4 is not None
    return torch.cat([batch.labels_B[:, None].to(batch.boxes_B4.dtype), to_centres(batch.boxes_B4)], 1)


def boxes_of_classes(outputs_bK: torch.Tensor, classes_b: torch.Tensor, boxes: Boxes) -> torch.Tensor:
    """The box that each row's output has for a class, [b, 4]: the only one, or one of each class."""
    if boxes == "single":
        return outputs_bK
    index_b14 = classes_b.long()[:, None, None].expand(-1, 1, 4)
    return outputs_bK.unflatten(1, (-1, 4)).gather(1, index_b14).squeeze(1)


@dataclass(frozen=True)
class BoxRegression:
    """An `Objective`: the box of the true class. Of a per-class net the other classes' outputs do not learn."""

    boxes: Boxes

    def loss(self, outputs_bK: torch.Tensor, targets_b5: torch.Tensor) -> torch.Tensor:
        """Half the squared Euclidean distance to the box, summed over rows, as Caffe's EuclideanLossLayer."""
        found_b4 = boxes_of_classes(outputs_bK, targets_b5[:, 0], self.boxes)
        return (found_b4 - targets_b5[:, 1:]).square().sum() / 2

    def hits(self, outputs_bK: torch.Tensor, targets_b5: torch.Tensor) -> torch.Tensor:
        """Rows whose box overlaps with the true one by more than half."""
        found_b4 = boxes_of_classes(outputs_bK, targets_b5[:, 0], self.boxes)
        return (overlaps(to_edges(found_b4), to_edges(targets_b5[:, 1:])) > LOCATED_IOU).sum()
