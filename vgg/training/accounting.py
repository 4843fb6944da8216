"""What is known of the updates since the last progress line: the only moment at which the host waits.

Shapes: L leaves of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from cluster.collectives import sum_over_workers
from cluster.layout import Worker
from cluster.progress import Part
from vgg.training.rank_times import RankTime, rank_times


@dataclass(frozen=True)
class Window:
    """Some updates, over all workers."""

    losses: list[float]
    """Mean loss of each, in nats."""
    hits: int
    """Rows whose best-scored class was the true one."""
    gradient_norm: float
    """L2 norm of the gradient of the last update, without weight decay."""
    times: tuple[RankTime, ...] = ()
    """Of each worker's updates."""


def summed(
    losses_L: Sequence[torch.Tensor], hits: torch.Tensor, net: nn.Module, worker: Worker, rows: int
) -> Window:
    """The window of these updates, of each of which every worker has its own losses; `hits` is cleared. `rows`:
    of each batch on this worker."""
    with worker.progress.at(Part.EXCHANGE):
        losses = sum_over_workers(torch.stack(list(losses_L))).double().sum(1).float().tolist()
        all_hits = int(sum_over_workers(hits))
        times = rank_times(worker, rows, len(losses))
    hits.zero_()
    return Window(losses, all_hits, gradient_norm(net), times)


def gradient_norm(net: nn.Module) -> float:
    """Of the gradients after an update, which are the same on every worker; a loss scaler has divided them."""
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    return float(torch.stack(torch._foreach_norm(gradients)).norm()) if gradients else 0.0
