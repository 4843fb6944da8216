"""Our loader and its limits, and all loaders that `benchmarks/data.py` compares.

Each yields float32 images [B, 3, 224, 224] from JPEG files; the limits only decode.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers import (
    ENDLESS,
    LEAST,
    MEAN,
    MOST,
    SIDE,
    Batches,
    dali_whole,
    litdata,
    mosaicml_streaming,
    run_graph,
    spdl,
    torchvision_decode_jpeg,
    torchvision_pil,
    webdataset,
)
from pipelines.loading.assembled import assembled
from pipelines.loading.batch import to_input
from pipelines.loading.dali import PREFETCH
from pipelines.loading.draw import Augment, colour_axes, draw, region
from pipelines.loading.loaders import TrainLoader
from pipelines.shards.manifest import read_manifest
from pipelines.shards.order import training_order
from pipelines.shards.reader import Shards

SEGMENTED, PLAIN = "packed", "plain"
"""Folders of the photographs packed with restart markers, and as they are."""


def _planned(folder: Path, batch: int) -> Iterator[tuple[Any, ...]]:
    """DALI's inputs for the draws of our loader: files, anchors, shapes, starts, ends, mirror flags."""
    manifest = read_manifest(folder)
    shards = Shards(folder, manifest, "train")
    axes_CC = colour_axes(np.asarray(manifest.covariance_rgb))
    for step in range(ENDLESS):
        epochs_B, images_B = training_order(0, step * batch, batch, len(shards))
        sizes = shards.heights_N[images_B], shards.widths_N[images_B]
        draws = draw(0, epochs_B, images_B, *sizes, Augment(SIDE, LEAST, MOST), axes_CC)
        anchor_B2, shape_B2, start_B2, end_B2 = region(draws, *sizes, SIDE)
        source = assembled(shards, images_B, anchor_B2, shape_B2)
        mirror_B = list(draws.mirror_B.astype(np.int32))
        yield source.files, *map(list, (source.anchor_B2, shape_B2, start_B2, end_B2)), mirror_B


def dali_region(folder: Path, batch: int, cores: int, *, packed: str = PLAIN, resized: bool = True) -> Batches:
    """DALI: our draws and regions from our shards, DALI's resize; without resizing, the limit of decoding."""
    from nvidia.dali import fn, pipeline_def, types

    inputs = _planned(folder / packed, batch)

    @pipeline_def(batch_size=batch, num_threads=cores, device_id=None)  # type: ignore[call-overload]
    def graph() -> Any:
        file, anchor, shape, start, end, mirror = fn.external_source(inputs, num_outputs=6, batch=True)
        image: Any = fn.decoders.image_slice(
            file, anchor, shape, normalized_anchor=False, normalized_shape=False, axis_names="HW",
            output_type=types.DALIImageType.RGB,
        )  # fmt: skip
        if not resized:
            return image.shape()
        image = fn.resize(
            image, size=[SIDE, SIDE], roi_start=start, roi_end=end, antialias=True,
            interp_type=types.DALIInterpType.INTERP_LINEAR,
        )  # fmt: skip
        return fn.crop_mirror_normalize(
            image, mirror=mirror, mean=list(MEAN), std=[1.0] * 3, dtype=types.DALIDataType.FLOAT
        )

    return run_graph(graph())


def endless(
    folder: Path, batch: int, cores: int, prefetch: int = PREFETCH, packed: str = SEGMENTED
) -> TrainLoader:
    """Our loader on the packed photographs, for practically unlimited steps."""
    manifest = read_manifest(folder / packed)
    return TrainLoader(
        Shards(folder / packed, manifest, "train"),
        manifest,
        Augment(SIDE, LEAST, MOST),
        seed=0,
        batch=batch,
        rows=range(batch),
        first_step=0,
        steps=ENDLESS,
        device=torch.device("cpu"),
        threads=cores,
        prefetch=prefetch,
    )


def ours(folder: Path, batch: int, cores: int, packed: str = SEGMENTED) -> Batches:
    """Our loader, from shards to the net's input."""
    inputs = None
    with endless(folder, batch, cores, packed=packed) as loader:
        for batch_of_images in loader:
            inputs = to_input(batch_of_images, inputs)
            yield inputs


LOADERS: dict[str, Callable[[Path, int, int], Batches]] = {
    "torchvision, PIL": torchvision_pil,
    "torchvision, decode_jpeg": torchvision_decode_jpeg,
    "DALI, whole images": dali_whole,
    "webdataset, PIL": webdataset,
    "litdata, PIL": litdata,
    "MosaicML streaming, PIL": mosaicml_streaming,
    "SPDL, FFmpeg": spdl,
    "DALI, regions, its resize": dali_region,
    "ours": ours,
    "ours, files as they are": partial(ours, packed=PLAIN),
    "limit: segments decoded only": partial(dali_region, packed=SEGMENTED, resized=False),
    "limit: regions decoded only": partial(dali_region, packed=PLAIN, resized=False),
}
