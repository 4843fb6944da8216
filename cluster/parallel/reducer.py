"""How the micro-batches of all workers become one gradient, that of the mean loss over the global batch.

Shapes: L leaves of the batch (see `cluster.parallel.fixed_order`).
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn


class GradientReducer(Protocol):
    """One way to compute the gradient of the global batch; a file of this folder each."""

    module: nn.Module
    """The net as `loss_of_rows` must call it."""
    batch: int
    """Rows of the global batch."""
    rows: range
    """Rows of the global batch that this worker computes."""

    def backward(
        self, loss_of_rows: Callable[[slice], torch.Tensor], scaler: torch.amp.GradScaler
    ) -> torch.Tensor:
        """Run each micro-batch forward and backward, then leave the global batch's gradient in every parameter.

        `loss_of_rows(rows)`: loss of these of this worker's rows, summed and divided by `batch`; it is called
        once for each micro-batch. Gradients must be clear before. Returns losses_L on the device: summed over
        leaves and workers they are the mean loss of the batch.
        """
