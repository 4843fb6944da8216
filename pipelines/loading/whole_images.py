"""Whole images, or the part of each within a box, rescaled in batches of one shape: nothing is padded.

A part is cut out before it is rescaled, as an image of its own: no pixel beyond it has a share in its edge.

Pixels are rescaled as by `pipelines.loading.dali`: a triangle filter, antialiased, rounded to 8 bits. DALI
decodes, and on a GPU it rescales as well; on the CPU `pipelines.loading.resample` does.

Shapes: N images, B images of a batch, H and W their sides in pixels, C = 3 (RGB, 0 to 255); 4: top, left,
height, width of a part in pixels.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch

from cli.errors import UserError
from pipelines.loading.dali_graphs import DECODED_AHEAD, INPUTS_KEPT, Placement, whole_image_graph
from pipelines.loading.draw import rescaled
from pipelines.loading.resample import resample
from pipelines.shards.reader import Shards

DECODE_BATCH = 32  # images that DALI decodes at a time, whatever their shapes


@dataclass(frozen=True)
class WholeBatch:
    """Rescaled images of one shape."""

    images_BHWC: torch.Tensor
    """uint8, on the device."""
    images_B: np.ndarray
    """Indices into the split."""


def whole_images(
    shards: Shards,
    images_N: np.ndarray | range,
    *,
    scale: int,
    pixels: int,
    device: torch.device,
    threads: int,
    placement: Placement = "cpu",
    parts_N4: np.ndarray | None = None,
) -> Iterator[WholeBatch]:
    """Each of these images once, its shorter side rescaled to `scale`, in batches of one shape.

    A batch has at most `pixels` pixels, and at least one image. Images come ordered by shape. `parts_N4`: of
    each image of the split, the part to take for the image. UserError if one cannot be decoded.
    """
    taken_N = np.asarray(images_N, np.int64)
    part_N4 = None if parts_N4 is None else parts_N4[taken_N]
    sizes_N2 = np.stack([shards.heights_N, shards.widths_N], 1)[taken_N] if part_N4 is None else part_N4[:, 2:]
    order_N, shape_N2 = _ordered_by_shape(taken_N, sizes_N2, scale)
    taken_N, part_N4 = taken_N[order_N], None if part_N4 is None else part_N4[order_N]
    groups = [slice(first, first + DECODE_BATCH) for first in range(0, len(taken_N), DECODE_BATCH)]
    inputs = _inputs(shards, taken_N, shape_N2, part_N4, groups, placement)
    pipe = whole_image_graph(
        inputs,
        placement,
        part_N4 is not None,
        batch_size=DECODE_BATCH,
        num_threads=threads,
        device_id=(device.index or 0) if placement != "cpu" else None,
        prefetch_queue_depth=DECODED_AHEAD,
    )
    pipe.build()
    copies = torch.cuda.Stream(device) if placement != "cpu" else None
    with ThreadPoolExecutor(threads) as pool:
        for group in groups:
            try:
                (decoded,) = pipe.run()
            except RuntimeError as error:
                keys = ", ".join(shards.key(int(i)) for i in taken_N[group][:3])
                raise UserError(f"an image of the batch of {keys}, … cannot be decoded: {error}") from error
            images = _images(decoded, shape_N2[group], placement, pool)
            for rows in _rows_of_one_shape(shape_N2[group], pixels):
                yield WholeBatch(_stacked(images[rows], device, copies), taken_N[group][rows])


def _ordered_by_shape(images_N: np.ndarray, sizes_N2: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """The order of images of these heights and widths, and both once rescaled, int64 [N, 2], in this order."""
    height_N, width_N = rescaled(sizes_N2[:, 0], sizes_N2[:, 1], np.full(len(images_N), scale))
    order_N = np.lexsort((images_N, width_N, height_N))
    return order_N, np.stack([height_N, width_N], 1)[order_N]


def _inputs(
    shards: Shards,
    images_N: np.ndarray,
    shape_N2: np.ndarray,
    part_N4: np.ndarray | None,
    groups: Sequence[slice],
    placement: Placement,
) -> Iterator[tuple[list[np.ndarray], ...]]:
    """DALI's inputs for each group."""
    kept_alive: deque[tuple[list[np.ndarray], ...]] = deque(maxlen=INPUTS_KEPT)
    for group in groups:
        inputs = [[shards.encoded(int(i)) for i in images_N[group]]]
        if part_N4 is not None:
            inputs += [list(corners_B2.astype(np.float32)) for corners_B2 in np.split(part_N4[group], 2, 1)]
        if placement != "cpu":
            inputs.append(list(shape_N2[group].astype(np.float32)))
        kept_alive.append(tuple(inputs))
        yield kept_alive[-1]


def _images(
    decoded: Any, shape_B2: np.ndarray, placement: Placement, pool: ThreadPoolExecutor
) -> list[torch.Tensor]:
    """Each image of DALI's output in its shape."""
    indices = range(len(shape_B2))
    if placement == "cpu":
        return [torch.from_numpy(image) for image in pool.map(partial(_rescaled, decoded, shape_B2), indices)]
    return [torch.from_dlpack(decoded[i]) for i in indices]


def _stacked(
    images: list[torch.Tensor], device: torch.device, copies: torch.cuda.Stream | None
) -> torch.Tensor:
    """The images on the device. What `copies` copies is read from DALI's memory, which the next run overwrites,
    so it is waited for, on a stream of its own: kernels that the caller has queued are not.
    """
    if copies is None:
        return torch.stack(images).to(device)
    with torch.cuda.stream(copies):
        images_BHWC = torch.stack(images)
    copies.synchronize()
    images_BHWC.record_stream(torch.cuda.current_stream(device))
    return images_BHWC


def _rescaled(decoded: Any, shape_B2: np.ndarray, i: int) -> np.ndarray:
    """Image `i` of DALI's output in its shape, uint8 [H, W, C]."""
    image_HWC = np.asarray(decoded.at(i))
    scaled_HWC = np.empty((*shape_B2[i], 3), np.uint8)
    resample(scaled_HWC, image_HWC, np.zeros(2, np.float32), np.array(image_HWC.shape[:2], np.float32), False)
    return scaled_HWC


def _rows_of_one_shape(shape_B2: np.ndarray, pixels: int) -> Iterator[slice]:
    """Consecutive rows of equal shape with at most `pixels` pixels together, or a single one."""
    start = 0
    for (height, width), rows in groupby(shape_B2.tolist()):
        stop, most = start + len(list(rows)), max(1, pixels // (height * width))
        for first in range(start, stop, most):
            yield slice(first, min(first + most, stop))
        start = stop
