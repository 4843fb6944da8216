"""Whole images, rescaled but not cut, in batches of one shape: nothing is padded.

Pixels are those of `pipelines.loading.dali`: a triangle filter, antialiased, rounded to 8 bits. DALI decodes,
and on a GPU it rescales as well; on the CPU `pipelines.loading.resample` does.

Shapes: B images of a batch, H and W their sides in pixels, C = 3 (RGB, 0 to 255).
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types

from pipelines.loading.dali import DECODED_AHEAD, Placement
from pipelines.loading.draw import rescaled
from pipelines.loading.resample import resample
from pipelines.shards.reader import Shards

READ_AT_ONCE = 32  # images that DALI decodes together, whatever their shapes


@dataclass(frozen=True)
class WholeBatch:
    """Rescaled images of one shape."""

    images_BHWC: torch.Tensor
    """uint8, on the device."""
    images_B: np.ndarray
    """Which images of the split these are."""


def whole_images(
    shards: Shards,
    images_N: np.ndarray | range,
    *,
    scale: int,
    pixels: int,
    device: torch.device,
    threads: int,
    placement: Placement = "cpu",
) -> Iterator[WholeBatch]:
    """Each of these images once, its shorter side rescaled to `scale`, in batches of one shape.

    A batch has at most `pixels` pixels, and at least one image. Images come in the order of their shapes.
    ValueError where one cannot be decoded.
    """
    images_N = np.asarray(images_N, np.int64)
    height_N, width_N = rescaled(
        shards.heights_N[images_N], shards.widths_N[images_N], np.full(len(images_N), scale)
    )
    order_N = np.lexsort((images_N, width_N, height_N))
    images_N, shape_N2 = images_N[order_N], np.stack([height_N, width_N], 1)[order_N]
    reads = [slice(first, first + READ_AT_ONCE) for first in range(0, len(images_N), READ_AT_ONCE)]
    held: deque[Any] = deque(maxlen=DECODED_AHEAD + 3)  # DALI reads these arrays without a copy

    def feed() -> Iterator[tuple[list[np.ndarray], ...]]:
        for rows in reads:
            files = [shards.encoded(int(i)) for i in images_N[rows]]
            sizes = list(shape_N2[rows].astype(np.float32))
            held.append((files,) if placement == "cpu" else (files, sizes))
            yield held[-1]

    pipe = _graph(
        feed(),
        placement,
        batch_size=READ_AT_ONCE,
        num_threads=threads,
        device_id=(device.index or 0) if placement != "cpu" else None,
        prefetch_queue_depth=DECODED_AHEAD,
    )
    pipe.build()
    with ThreadPoolExecutor(threads) as pool:
        for rows in reads:
            try:
                (found,) = pipe.run()
            except RuntimeError as error:
                keys = ", ".join(shards.key(int(i)) for i in images_N[rows][:3])
                raise ValueError(f"an image of the batch of {keys}, … cannot be decoded: {error}") from error
            shapes = shape_N2[rows].tolist()
            if placement == "cpu":
                one = partial(_rescaled, found, shapes)
                images = [torch.from_numpy(image) for image in pool.map(one, range(len(shapes)))]
            else:
                images = [torch.from_dlpack(found[i]) for i in range(len(shapes))]
            place = 0
            for (height, width), group in groupby(shapes):
                stop, most = place + len(list(group)), max(1, pixels // (height * width))
                for first in range(place, stop, most):
                    chosen = slice(first, min(first + most, stop))
                    yield WholeBatch(torch.stack(images[chosen]).to(device), images_N[rows][chosen])
                place = stop


def _rescaled(decoded: Any, shapes: list[list[int]], i: int) -> np.ndarray:
    """Image `i` of DALI's output at its shape, uint8 [H, W, C]."""
    image_HWC = np.asarray(decoded.at(i))
    scaled_HWC = np.empty((*shapes[i], 3), np.uint8)
    resample(scaled_HWC, image_HWC, np.zeros(2, np.float32), np.array(image_HWC.shape[:2], np.float32), False)
    return scaled_HWC


@pipeline_def
def _graph(feed: Iterator[Any], placement: Placement) -> Any:
    """Whole images, rescaled where that is done on the GPU."""
    outputs = 1 if placement == "cpu" else 2
    file, *size = fn.external_source(feed, num_outputs=outputs, batch=True, no_copy=True)
    decoded = fn.decoders.image(
        file, device="mixed" if placement == "gpu" else "cpu", output_type=types.DALIImageType.RGB
    )
    if placement == "cpu":
        return decoded
    return fn.resize(
        decoded.gpu(), size=size[0], interp_type=types.DALIInterpType.INTERP_LINEAR, antialias=True
    )
