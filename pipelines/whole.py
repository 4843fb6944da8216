"""Whole images, rescaled but not cut, in batches of one shape: nothing is padded.

Pixels are those of `pipelines.dali`: a triangle filter, antialiased, rounded to 8 bits.

Shapes: B images of a batch, H and W their sides in pixels, C = 3 (RGB, 0 to 255).
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types

from pipelines.dali import PREFETCH, Placement
from pipelines.draw import rescaled
from pipelines.shards import Shards

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
    held: deque[Any] = deque(maxlen=PREFETCH + 3)  # DALI reads these arrays without a copy

    def feed() -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
        for rows in reads:
            files = [shards.encoded(int(i)) for i in images_N[rows]]
            held.append((files, list(shape_N2[rows].astype(np.float32))))
            yield held[-1]

    pipe = _graph(
        feed(),
        placement,
        batch_size=READ_AT_ONCE,
        num_threads=threads,
        device_id=(device.index or 0) if placement != "cpu" else None,
        prefetch_queue_depth=PREFETCH,
    )
    pipe.build()
    for rows in reads:
        try:
            (rescaled_images,) = pipe.run()
        except RuntimeError as error:
            keys = ", ".join(shards.key(int(i)) for i in images_N[rows][:3])
            raise ValueError(f"an image of the batch of {keys}, … cannot be decoded: {error}") from error
        place = 0
        for shape, group in groupby(shape_N2[rows].tolist()):
            count = len(list(group))
            most = max(1, pixels // (shape[0] * shape[1]))
            for first in range(place, place + count, most):
                chosen = range(first, min(first + most, place + count))
                images_BHWC = torch.stack([torch.as_tensor(_array(rescaled_images, i)) for i in chosen])
                yield WholeBatch(images_BHWC.to(device), images_N[rows][chosen.start : chosen.stop])
            place += count


def _array(images: Any, i: int) -> Any:
    """One image of DALI's output, on whichever device it lies."""
    image = images[i]
    return torch.from_dlpack(image) if hasattr(image, "__dlpack__") else np.asarray(image)


@pipeline_def
def _graph(feed: Iterator[Any], placement: Placement) -> Any:
    file, size = fn.external_source(feed, num_outputs=2, batch=True, no_copy=True)
    decoded = fn.decoders.image(
        file, device="mixed" if placement == "gpu" else "cpu", output_type=types.DALIImageType.RGB
    )
    if placement == "regions":
        decoded = decoded.gpu()
    return fn.resize(decoded, size=size, interp_type=types.DALIInterpType.INTERP_LINEAR, antialias=True)
