"""Executes draws with DALI; it decides nothing and reads no random state.

Pixels are those of the whole image rescaled by a triangle filter (antialiased, as PIL's BILINEAR), cut, then
mirrored. Only the region of the file that the crop needs is decoded, with the margin the filter reaches into.

Shapes: B images of this worker, H and W sides of the crop in pixels, C = 3 (RGB, 0 to 255).
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import feed_ndarray

from pipelines.draw import Augment, Draws, centre, colour_axes, draw
from pipelines.shards import Manifest, Shards, samples

Placement = Literal["cpu", "regions", "gpu"]
"""cpu: all on the CPU. regions: decoded on the CPU, resized on the GPU. gpu: decoded there too."""

PREFETCH = 2  # batches that DALI works on ahead


@dataclass(frozen=True)
class Batch:
    """Crops of one worker, on its device."""

    images_BHWC: torch.Tensor
    """uint8."""
    offset_BC: torch.Tensor
    """float32, what is added to every pixel: the colour shift minus the training mean."""
    labels_B: torch.Tensor
    """int64."""
    images_B: np.ndarray
    """Which images of the split these are."""


def to_input(batch: Batch) -> torch.Tensor:
    """What the net sees, images_BCHW float32 in channels-last memory."""
    return batch.images_BHWC.permute(0, 3, 1, 2).float() + batch.offset_BC[:, :, None, None]


@dataclass(frozen=True)
class Rows:
    """Images of one batch of this worker and what is drawn for them."""

    images_B: np.ndarray
    draws: Draws


class Loader:
    """Iterates over the batches that `plan` yields; a context manager, used once."""

    def __init__(
        self,
        shards: Shards,
        manifest: Manifest,
        plan: Iterator[Rows],
        *,
        side: int,
        rows: int,
        device: torch.device,
        threads: int,
        placement: Placement,
    ) -> None:
        self._shards, self._plan, self._device, self._side = shards, plan, device, side
        self._mean_C = np.asarray(manifest.mean_rgb, np.float32)
        self._rows: deque[Rows] = deque()
        self._fed: deque[Any] = deque(maxlen=PREFETCH + 3)  # DALI reads these arrays without a copy
        self._on_gpu = placement != "cpu"
        self._pipe = _graph(
            self._feed,
            side,
            placement,
            batch_size=max(rows, 1),
            num_threads=threads,
            device_id=(device.index or 0) if self._on_gpu else None,
            prefetch_queue_depth=PREFETCH,
        )
        self._pipe.build()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        del self._pipe

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        try:
            (crops,) = self._pipe.run()
        except RuntimeError as error:
            keys = ", ".join(self._shards.key(int(i)) for rows in self._rows for i in rows.images_B[:3])
            raise ValueError(f"an image of the batches of {keys}, … cannot be decoded: {error}") from error
        rows = self._rows.popleft()
        count = len(rows.images_B)
        images_BHWC = torch.empty(
            count,
            self._side,
            self._side,
            3,
            dtype=torch.uint8,
            device=self._device if self._on_gpu else "cpu",
            pin_memory=self._device.type == "cuda" and not self._on_gpu,
        )
        feed_ndarray(crops.as_tensor(), images_BHWC)
        offset_BC = rows.draws.shift_BC - self._mean_C
        labels_B = self._shards.labels_N[rows.images_B]
        return Batch(
            images_BHWC.to(self._device, non_blocking=True),
            torch.from_numpy(offset_BC).to(self._device, non_blocking=True),
            torch.from_numpy(labels_B).to(self._device, non_blocking=True),
            rows.images_B,
        )

    def _feed(self) -> tuple[list[np.ndarray], ...]:
        rows = next(self._plan)
        self._rows.append(rows)
        files = [self._shards.encoded(int(i)) for i in rows.images_B]
        heights_B = self._shards.heights_N[rows.images_B]
        widths_B = self._shards.widths_N[rows.images_B]
        draws = rows.draws
        anchor_B2, shape_B2, start_B2, end_B2 = region(draws, heights_B, widths_B, self._side)
        mirror_B1 = draws.mirror_B.astype(np.int32)
        fed = (
            files,
            list(anchor_B2),
            list(shape_B2),
            list(start_B2),
            list(end_B2),
            list(mirror_B1),
        )
        self._fed.append(fed)
        return fed


def region(
    draws: Draws, heights_B: np.ndarray, widths_B: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What to decode and what to resize, as float32 [B, 2] (down, right) in pixels of the file.

    The first two are anchor and shape of the region to decode, whole pixels; the last two the start and end
    of the crop within that region, which may fall between pixels.
    """
    sizes_B2 = np.stack([heights_B, widths_B], 1).astype(np.float64)
    scaled_B2 = np.stack([draws.scaled_height_B, draws.scaled_width_B], 1)
    corner_B2 = np.stack([draws.top_B, draws.left_B], 1)
    ratio_B2 = sizes_B2 / scaled_B2
    start_B2, end_B2 = corner_B2 * ratio_B2, (corner_B2 + side) * ratio_B2
    margin_B2 = np.ceil(np.maximum(ratio_B2, 1)) + 1  # the triangle filter's reach
    first_B2 = np.maximum(np.floor(start_B2 - margin_B2), 0)
    last_B2 = np.minimum(np.ceil(end_B2 + margin_B2), sizes_B2)
    return (
        first_B2.astype(np.float32),
        (last_B2 - first_B2).astype(np.float32),
        (start_B2 - first_B2).astype(np.float32),
        (end_B2 - first_B2).astype(np.float32),
    )


@pipeline_def
def _graph(feed: Callable[[], Any], side: int, placement: Placement) -> Any:
    file, anchor, shape, start, end, mirror = fn.external_source(feed, num_outputs=6, batch=True, no_copy=True)
    decoded = fn.decoders.image_slice(
        file,
        anchor,
        shape,
        device="mixed" if placement == "gpu" else "cpu",
        output_type=types.DALIImageType.RGB,
        normalized_anchor=False,
        normalized_shape=False,
        axis_names="HW",
    )
    if placement == "regions":
        decoded = decoded.gpu()
    crop: Any = fn.resize(
        decoded,
        size=[side, side],
        roi_start=start,
        roi_end=end,
        interp_type=types.DALIInterpType.INTERP_LINEAR,
        antialias=True,
    )
    return fn.flip(crop, horizontal=mirror)


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
    ) -> None:
        """`batch`: images of the global batch, of which `rows` are this worker's; `threads`: of the CPU."""
        axes_CC = colour_axes(np.asarray(manifest.covariance_rgb))

        def plan() -> Iterator[Rows]:
            for step in range(first_step, first_step + steps):
                epochs_B, images_B = samples(seed, step * batch + rows.start, len(rows), len(shards))
                sizes = shards.heights_N[images_B], shards.widths_N[images_B]
                yield Rows(images_B, draw(seed, epochs_B, images_B, *sizes, augment, axes_CC))

        super().__init__(
            shards,
            manifest,
            plan(),
            side=augment.side,
            rows=len(rows),
            device=device,
            threads=threads,
            placement=placement,
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
    ) -> None:
        """`images`: places in the split, e.g. `share(rank, world, len(shards))`; `scale`: shorter side Q."""

        def plan() -> Iterator[Rows]:
            for first in range(0, len(images), batch):
                images_B = np.asarray(images[first : first + batch])
                sizes = shards.heights_N[images_B], shards.widths_N[images_B]
                yield Rows(images_B, centre(*sizes, side, scale))

        super().__init__(
            shards,
            manifest,
            plan(),
            side=side,
            rows=min(batch, len(images)),
            device=device,
            threads=threads,
            placement=placement,
        )
