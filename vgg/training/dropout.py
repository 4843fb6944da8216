"""Dropout masks that do not depend on the layout.

Shapes: b rows of the global batch on this worker, F units of a hidden fully connected layer.
"""

from collections.abc import Sequence

import numpy as np
import torch


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

    The mask of a unit is a function of (seed, step, layer, row) alone, on any layout and device: a
    counter-based generator jumps to the first of `rows`. `p` is rounded to a multiple of 1/256.
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
