"""The confusion matrix.

Shapes: B images, K classes.
"""

import torch


def confusion_matrix(labels_B: torch.Tensor, predicted_B: torch.Tensor, classes: int) -> torch.Tensor:
    """Images by true class (row) and predicted class (column), int64 [K, K] on the device of the labels."""
    cells_B = labels_B.long() * classes + predicted_B.long()
    counts = torch.zeros(classes**2, dtype=torch.int64, device=labels_B.device)
    # Not torch.bincount, which on a GPU waits for the largest value.
    counts.index_add_(0, cells_B, torch.ones_like(cells_B))
    return counts.view(classes, classes)
