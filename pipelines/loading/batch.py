"""A batch of crops, and its conversion to the net's input in one pass over memory.

Shapes: B images of this worker, H and W sides of the crop in pixels, C = 3 (RGB, 0 to 255), P pixels of a crop.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit


@dataclass(frozen=True)
class Batch:
    """Crops of one worker, on its device."""

    images_BHWC: torch.Tensor
    """uint8."""
    offset_BC: torch.Tensor
    """float32, added to every pixel: the colour shift minus the training mean."""
    labels_B: torch.Tensor
    """int64."""
    images_B: np.ndarray
    """Indices into the split."""
    boxes_B4: torch.Tensor | None = None
    """float32, where they were asked for: xmin, ymin, xmax, ymax of each image's box as fractions of the crop,
    which it may exceed; NaN of an image without one."""


def to_input(batch: Batch, out: torch.Tensor | None = None) -> torch.Tensor:
    """The net's input, images_BCHW float32 in channels-last memory.

    `out`: the result of an earlier call, overwritten if it has the right shape. On a CPU, fresh memory costs
    more than the sum itself: the kernel clears it page by page.
    """
    images_BCHW = batch.images_BHWC.permute(0, 3, 1, 2)
    if out is None or out.shape != images_BCHW.shape:
        out = torch.empty_like(images_BCHW, dtype=torch.float32)
    if out.device.type == "cpu":  # one pass over memory, where torch takes two
        _add_offset(batch.images_BHWC.numpy(), batch.offset_BC.numpy(), out.permute(0, 2, 3, 1).numpy())
        return out
    return out.copy_(images_BCHW).add_(batch.offset_BC[:, :, None, None])


@njit(nogil=True, cache=True)
def _add_offset(images_BHWC: np.ndarray, offset_BC: np.ndarray, out_BHWC: np.ndarray) -> None:
    rows, pixels = images_BHWC.shape[0], images_BHWC.shape[1] * images_BHWC.shape[2]
    for row in range(rows):
        source_PC, target_PC = images_BHWC[row].reshape(pixels, 3), out_BHWC[row].reshape(pixels, 3)
        red, green, blue = offset_BC[row, 0], offset_BC[row, 1], offset_BC[row, 2]
        for pixel in range(pixels):
            target_PC[pixel, 0] = np.float32(source_PC[pixel, 0]) + red
            target_PC[pixel, 1] = np.float32(source_PC[pixel, 1]) + green
            target_PC[pixel, 2] = np.float32(source_PC[pixel, 2]) + blue
