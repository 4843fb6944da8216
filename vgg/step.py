"""One SGD update: the shortest thing in the house.

Shapes: B rows of the global batch, b rows of it on this worker, C = 3, H and W image sides in pixels,
K classes, F units of a hidden fully connected layer.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vgg.recipe import Optim, Precision


class GradientSum(Protocol):
    """Sums gradients over workers in an order of its own; see `cluster.reduce.TreeSum`."""

    def take(self, leaf: int) -> None:
        """Take the gradients of a leaf of the batch, and clear them."""

    def finish(self) -> None:
        """Leave the sum over all leaves as the gradients."""


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """What the arithmetic of a `--train.precision` runs in; weights stay float32."""
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def make_optimizer(net: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """The update rule over every parameter; biases decay too, as the paper's penalty names no exception."""
    if optim.name == "sgd":
        return torch.optim.SGD(
            net.parameters(),
            optim.lr,
            momentum=optim.momentum,
            weight_decay=optim.weight_decay,
            fused=True,
        )
    return torch.optim.Adam(
        net.parameters(),
        optim.lr,
        betas=(optim.momentum, 0.999),
        weight_decay=optim.weight_decay,
        fused=True,
    )


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


def dropout_masks(
    seed: int,
    step: int,
    rows: range,
    widths: Sequence[int],
    p: float,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> list[torch.Tensor]:
    """Masks of each hidden layer for `rows` of the global batch: 0 with probability `p`, else 1/(1 - p).

    A unit's mask is a function of (seed, step, layer, row) alone, whatever the layout or the device: a
    counter-based generator jumps straight to the rows asked for. `p` is resolved to 1/256.
    """
    threshold = round(p * 256)
    masks = []
    for layer, width in enumerate(widths):
        blocks = -(-width // 32)  # a Philox counter yields 32 bytes; each row starts on a new one
        philox = np.random.Philox(key=[seed, layer], counter=[0, step, 0, 2])
        words = philox.advance(rows.start * blocks).random_raw(len(rows) * blocks * 4)
        bytes_bF = words.view(np.uint8).reshape(len(rows), blocks * 32)[:, :width]
        keep_bF = torch.from_numpy(bytes_bF >= threshold)
        if device.type == "cuda":
            keep_bF = keep_bF.pin_memory()  # else the host would wait for the copy
        masks.append(keep_bF.to(device, non_blocking=True).to(dtype) * (256 / (256 - threshold)))
    return masks
