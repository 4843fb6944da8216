"""Dropout masks that do not depend on the layout.

Shapes: b rows of the global batch on this worker, F units of a hidden fully connected layer.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch


class MaskSource:
    """The masks of one step after another, each drawn on a thread of its own while the step before is computed.

    A context manager.
    """

    def __init__(
        self,
        seed: int,
        rows: range,
        widths: Sequence[int],
        p: float,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """As `dropout_masks`."""
        self._seed, self._rows, self._widths, self._p = seed, rows, widths, p
        self._device, self._dtype = device, dtype
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dropout-masks")
        self._ahead: tuple[int, Future[list[torch.Tensor]]] | None = None

    def __enter__(self) -> "MaskSource":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def of(self, step: int) -> list[torch.Tensor] | None:
        """The masks of a step; None where no unit is dropped."""
        if _threshold(self._p) == 0:
            return None
        if self._ahead is None or self._ahead[0] != step:
            self._ahead = step, self._thread.submit(self._draw, step)
        masks_bF = self._ahead[1].result()
        self._ahead = step + 1, self._thread.submit(self._draw, step + 1)
        return masks_bF

    def _draw(self, step: int) -> list[torch.Tensor]:
        return dropout_masks(
            self._seed,
            step,
            self._rows,
            self._widths,
            self._p,
            device=self._device,
            dtype=self._dtype,
        )


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
    threshold = _threshold(p)
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


def _threshold(p: float) -> int:
    """Of the 256 values of a byte, those that drop a unit."""
    return round(p * 256)
