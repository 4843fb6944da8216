"""One SGD update: the shortest thing in the house.

Shapes: B rows of the global batch, b rows of it on this worker, C = 3, H and W image sides in pixels,
K classes, F units of a hidden fully connected layer.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class GradientSum(Protocol):
    """Sums gradients over workers in an order of its own; see `cluster.parallel.fixed_order.TreeSum`."""

    def take(self, leaf: int) -> None:
        """Take the gradients of a leaf of the batch, and clear them."""

    def finish(self) -> None:
        """Leave the sum over all leaves as the gradients."""


def train_step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    images_bCHW: torch.Tensor,
    labels_b: torch.Tensor,
    masks_bF: Sequence[torch.Tensor],
    *,
    batch: int,
    pieces: Sequence[slice],
    lr: float,
    dtype: torch.dtype,
    scaler: torch.amp.GradScaler,
    tree: GradientSum | None = None,
    leaf_after: Mapping[int, int] | None = None,
) -> torch.Tensor:
    """Update the net from this worker's rows, a piece at a time; the pieces' shares of the loss, in nats.

    The loss of a row is divided by the *global* `batch` and gradients are summed over workers, so that the
    update is the exact mean over the batch however unevenly it is cut. The shares stay on the device: summed
    over workers and pieces they are the mean loss of the batch. With a `tree`, `leaf_after` tells after which
    piece a leaf's gradient is complete.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    losses = []
    for piece, rows in enumerate(pieces):
        last = piece == len(pieces) - 1
        hold = net.no_sync if isinstance(net, DistributedDataParallel) and not last else nullcontext
        with hold():
            with torch.autocast(images_bCHW.device.type, dtype, enabled=dtype != torch.float32):
                scores_bK = net(images_bCHW[rows], [mask[rows] for mask in masks_bF]).flatten(1)
            loss = F.cross_entropy(scores_bK.float(), labels_b[rows], reduction="sum") / batch
            scaler.scale(loss).backward()  # under DDP the last one sums gradients over workers
        if tree is not None and leaf_after is not None and piece in leaf_after:
            tree.take(leaf_after[piece])
        losses.append(loss.detach())
    if tree is not None:
        tree.finish()
    scaler.step(optimizer)
    scaler.update()
    return torch.stack(losses)  # no .item(): the host never waits


def micro_batches(first: int, stop: int, most: int) -> list[slice]:
    """The rows from `first` to `stop` in pieces of at most `most`."""
    return [slice(start, min(start + most, stop)) for start in range(first, stop, most)]
