"""DALI pipelines: decode regions or whole images, and on a GPU rescale them as well.

They take every parameter as an input and draw no random numbers. An EXIF orientation is ignored: packing has
turned the pixels of a rotated file, and decides what counts as one.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

from nvidia.dali import fn, pipeline_def, types

Placement = Literal["cpu", "regions", "gpu"]
"""cpu: decode and rescale on the CPU. regions: decode on the CPU, rescale on the GPU. gpu: both on the GPU."""

DECODED_AHEAD = 2
"""Batches that DALI holds: one is decoded while the other is rescaled."""

INPUTS_KEPT = DECODED_AHEAD + 3
"""Batches whose input arrays must stay alive, because DALI reads them without a copy."""


@pipeline_def
def crop_graph(feed: Callable[[], Any], side: int, placement: Placement) -> Any:
    """Regions as uint8 if the CPU rescales them, else crops of `side` pixels on the GPU.

    `feed` returns files, anchors and shapes; on a GPU also starts and ends of the crops, and mirror flags.
    """
    outputs = 3 if placement == "cpu" else 6
    file, anchor, shape, *rest = fn.external_source(feed, num_outputs=outputs, batch=True, no_copy=True)
    decoded = fn.decoders.image_slice(
        file,
        anchor,
        shape,
        device="mixed" if placement == "gpu" else "cpu",
        output_type=types.DALIImageType.RGB,
        normalized_anchor=False,
        normalized_shape=False,
        axis_names="HW",
        adjust_orientation=False,
    )
    if placement == "cpu":
        return decoded
    start, end, mirror = rest
    crop: Any = fn.resize(
        decoded.gpu(),
        size=[side, side],
        roi_start=start,
        roi_end=end,
        interp_type=types.DALIInterpType.INTERP_LINEAR,
        antialias=True,
    )
    return fn.flip(crop, horizontal=mirror)


@pipeline_def
def whole_image_graph(feed: Iterator[Any], placement: Placement, parts: bool = False) -> Any:
    """Whole images, or a part of each, rescaled if that is done on the GPU.

    `feed` yields files; with `parts` also their corners and shapes; on a GPU also the sizes to rescale to.
    """
    outputs = 1 + 2 * parts + (placement != "cpu")
    file, *rest = fn.external_source(feed, num_outputs=outputs, batch=True, no_copy=True)
    image: Any = fn.decoders.image(
        file,
        device="mixed" if placement == "gpu" else "cpu",
        output_type=types.DALIImageType.RGB,
        adjust_orientation=False,
    )
    if parts:
        corner, shape, *rest = rest
        image = fn.slice(image, corner, shape, normalized_anchor=False, normalized_shape=False, axis_names="HW")
    if placement == "cpu":
        return image
    return fn.resize(image.gpu(), size=rest[0], interp_type=types.DALIInterpType.INTERP_LINEAR, antialias=True)
