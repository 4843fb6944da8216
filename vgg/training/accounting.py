"""What is known of the updates since the last progress line: the only moment at which the host waits.

Shapes: L leaves of the batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from cluster.collectives import sum_over_workers


@dataclass(frozen=True)
class Window:
    """Some updates, over all workers."""

    losses: list[float]
    """Mean loss of each, in nats."""
    hits: int
    """Rows whose best-scored class was the true one."""
    gradient_norm: float
    """L2 norm of the gradient of the last update, without weight decay."""

    @property
    def finite(self) -> bool:
        """Whether every loss is a number."""
        return all(map(math.isfinite, self.losses))


def summed(losses_L: Sequence[torch.Tensor], hits: torch.Tensor, net: nn.Module) -> Window:
    """The window of these updates, of each of which every worker has its own losses; `hits` is cleared."""
    losses = sum_over_workers(torch.stack(list(losses_L))).double().sum(1).float().tolist()
    all_hits = int(sum_over_workers(hits))
    hits.zero_()
    return Window(losses, all_hits, gradient_norm(net))


def gradient_norm(net: nn.Module) -> float:
    """Of the gradients after an update, which are the same on every worker; a loss scaler has divided them."""
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    return float(torch.stack(torch._foreach_norm(gradients)).norm()) if gradients else 0.0
