"""What an update lowers, and what counts as a right answer.

Shapes: b rows of the global batch on this worker, K outputs of the net.
"""

from typing import Protocol

import torch
import torch.nn.functional as F


class Objective(Protocol):
    """A loss of the net's outputs and the rows' targets, whatever these are: rows along the first dimension."""

    def loss(self, outputs_bK: torch.Tensor, targets_b: torch.Tensor) -> torch.Tensor:
        """Summed over rows; outputs are float32."""

    def hits(self, outputs_bK: torch.Tensor, targets_b: torch.Tensor) -> torch.Tensor:
        """How many rows are answered rightly."""


class Classification:
    """Cross-entropy in nats; targets are classes. Right is the true class scored best."""

    def loss(self, outputs_bK: torch.Tensor, targets_b: torch.Tensor) -> torch.Tensor:
        """See `Objective.loss`."""
        return F.cross_entropy(outputs_bK, targets_b, reduction="sum")

    def hits(self, outputs_bK: torch.Tensor, targets_b: torch.Tensor) -> torch.Tensor:
        """See `Objective.hits`."""
        best_b, classes_b = outputs_bK.max(1)
        return ((classes_b == targets_b) & best_b.isfinite()).sum()  # of NaN none is best
