"""Batches for training and for evaluation: which images, and what is drawn for each."""

from collections.abc import Iterator

import numpy as np
import torch

from pipelines.loading.dali import PREFETCH, Loader, Placement, PlannedBatch
from pipelines.loading.draw import Augment, centre, colour_axes, draw
from pipelines.shards.manifest import Manifest
from pipelines.shards.order import training_order
from pipelines.shards.reader import Shards


class TrainLoader(Loader):
    """This worker's rows of each global batch, from `first_step` on, for `steps` steps."""

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
    ) -> None:
        """`batch`: images of the global batch, of which `rows` are this worker's; `threads`: of the CPU;
        `prefetch`: batches that stand ready."""
        axes_CC = colour_axes(np.asarray(manifest.covariance_rgb))

        def plan() -> Iterator[PlannedBatch]:
            for step in range(first_step, first_step + steps):
                epochs_B, images_B = training_order(seed, step * batch + rows.start, len(rows), len(shards))
                sizes = shards.heights_N[images_B], shards.widths_N[images_B]
                yield PlannedBatch(images_B, draw(seed, epochs_B, images_B, *sizes, augment, axes_CC))

        super().__init__(
            shards,
            manifest,
            plan(),
            side=augment.side,
            rows=len(rows),
            device=device,
            threads=threads,
            placement=placement,
            prefetch=prefetch,
        )


class EvalLoader(Loader):
    """The centre crop of each of these images once; the last batch is short, nothing is padded."""

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
    ) -> None:
        """`images`: places in the split, e.g. `share(rank, world, len(shards))`; `scale`: shorter side Q."""

        def plan() -> Iterator[PlannedBatch]:
            for first in range(0, len(images), batch):
                images_B = np.asarray(images[first : first + batch])
                sizes = shards.heights_N[images_B], shards.widths_N[images_B]
                yield PlannedBatch(images_B, centre(*sizes, side, scale))

        super().__init__(
            shards,
            manifest,
            plan(),
            side=side,
            rows=min(batch, len(images)),
            device=device,
            threads=threads,
            placement=placement,
            prefetch=prefetch,
        )
