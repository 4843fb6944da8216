"""Loaders for training and for evaluation: which images go into a batch, and their draws."""

from collections.abc import Iterator

import numpy as np
import torch

from pipelines.loading.dali import PREFETCH, Loader, PlannedBatch
from pipelines.loading.dali_graphs import Placement
from pipelines.loading.draw import Augment, centre, colour_axes, draw
from pipelines.shards.manifest import Manifest
from pipelines.shards.order import training_order
from pipelines.shards.reader import Shards


class TrainLoader(Loader):
    """This worker's rows of each global batch, for `steps` steps from `first_step` on."""

    def __init__(
        self,
        shards: Shards,
        manifest: Manifest,
        augment: Augment,
        *,
        seed: int,
        batch: int,
        rows: range,
        first_step: int,
        steps: int,
        device: torch.device,
        threads: int,
        placement: Placement = "cpu",
        prefetch: int = PREFETCH,
        boxes_N4: np.ndarray | None = None,
    ) -> None:
        """`batch`: size of the global batch, of which `rows` are this worker's; `threads`: of the CPU;
        `prefetch`: batches prepared ahead; `boxes_N4`: see `Loader`, images whose box is NaN are left out."""
        axes_CC = colour_axes(np.asarray(manifest.covariance_rgb))
        taken_N = np.arange(len(shards)) if boxes_N4 is None else with_box(boxes_N4)

        def plan() -> Iterator[PlannedBatch]:
            for step in range(first_step, first_step + steps):
                first = step * batch + rows.start
                epochs_B, places_B = training_order(seed, first, len(rows), len(taken_N))
                images_B = taken_N[places_B]
                sizes = shards.heights_N[images_B], shards.widths_N[images_B]
                yield PlannedBatch(images_B, draw(seed, epochs_B, images_B, *sizes, augment, axes_CC))

        super().__init__(
            shards,
            manifest,
            plan,
            side=augment.side,
            rows=len(rows),
            device=device,
            threads=threads,
            placement=placement,
            prefetch=prefetch,
            boxes_N4=boxes_N4,
        )


def with_box(boxes_N4: np.ndarray) -> np.ndarray:
    """Indices of the images that have a box, int64, ascending."""
    return np.flatnonzero(~np.isnan(boxes_N4).any(1))


class EvalLoader(Loader):
    """The centre crop of each of these images once; the last batch may be smaller, nothing is padded."""

    def __init__(
        self,
        shards: Shards,
        manifest: Manifest,
        images: np.ndarray | range,
        *,
        side: int,
        scale: int,
        batch: int,
        device: torch.device,
        threads: int,
        placement: Placement = "cpu",
        prefetch: int = PREFETCH,
        boxes_N4: np.ndarray | None = None,
        kept: bool = False,
    ) -> None:
        """`images`: indices into the split, e.g. `rank_slice(rank, world, len(shards))`; `side`: of the crop in
        pixels; `scale`: shorter side Q of the rescaled image; `threads`: of the CPU; `prefetch`: batches
        prepared ahead; `boxes_N4`, `kept`: see `Loader`. UserError if the crop does not fit."""

        def plan() -> Iterator[PlannedBatch]:
            for first in range(0, len(images), batch):
                images_B = np.asarray(images[first : first + batch])
                sizes = shards.heights_N[images_B], shards.widths_N[images_B]
                yield PlannedBatch(images_B, centre(*sizes, side, scale))

        super().__init__(
            shards,
            manifest,
            plan,
            side=side,
            rows=min(batch, len(images)),
            device=device,
            threads=threads,
            placement=placement,
            prefetch=prefetch,
            boxes_N4=boxes_N4,
            kept=kept,
        )
