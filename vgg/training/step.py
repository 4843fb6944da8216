"""One SGD update.

Shapes: b rows of the global batch on this worker, C = 3, H and W image sides in pixels, K classes, F units of a
hidden fully connected layer, L leaves of the batch (see `cluster.parallel.fixed_order`).
"""

from collections.abc import Sequence

import torch

from cluster.parallel.reducer import GradientReducer
from vgg.net.precision import MixedPrecision
from vgg.training.guard import UpdateGuard
from vgg.training.objective import Classification, Objective

CLASSIFICATION = Classification()


def train_step(
    reducer: GradientReducer,
    optimizer: torch.optim.Optimizer,
    precision: MixedPrecision,
    images_bCHW: torch.Tensor,
    targets_b: torch.Tensor,
    masks_bF: Sequence[torch.Tensor] | None,
    *,
    lr: float,
    objective: Objective = CLASSIFICATION,
    hits: torch.Tensor | None = None,
    guard: UpdateGuard | None = None,
) -> torch.Tensor:
    """Update the net once from this worker's rows; losses_L, left on the device.

    The loss of a row is divided by the *global* batch and the reducer sums gradients, so that the update is the
    exact mean over the batch however unevenly it is divided. Summed over workers and leaves, the losses are the
    mean loss of the batch. `hits`: a count on the device, to which the rows are added that are answered
    rightly, under dropout and before the update. `guard`: leaves the update out where its numbers are none.
    """

    def loss_of(rows: slice) -> torch.Tensor:
        masks = None if masks_bF is None else [mask_bF[rows] for mask_bF in masks_bF]
        with precision.autocast():
            scores_bK = reducer.module(images_bCHW[rows], masks).flatten(1)
        if hits is not None:
            hits.add_(objective.hits(scores_bK.detach().float(), targets_b[rows]))
        loss = objective.loss(scores_bK.float(), targets_b[rows]) / reducer.batch
        return loss if guard is None else guard.loss(loss)

    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
    optimizer.zero_grad(set_to_none=True)
    losses_L = reducer.backward(loss_of, precision.scaler)
    if guard is not None:
        losses_L = guard.checked(losses_L)
    precision.scaler.step(optimizer)
    precision.scaler.update()
    return losses_L  # no .item(): the host never waits
