"""Decodes and crops planned batches ahead of the step that takes them.

Pixels are those of the whole image rescaled by a triangle filter (antialiased, as PIL's BILINEAR), cropped and
mirrored. Only the region of the file that the crop needs is decoded, including the margin of the filter; if the
file has restart markers, a small JPEG of the segments that show it (`pipelines/loading/assembled.py`). DALI
decodes; `pipelines/loading/resample.py` rescales on the CPU, DALI on the GPU.

Shapes: B images of this worker, H and W sides of the crop in pixels, C = 3 (RGB, 0 to 255).
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, Self

import numpy as np
import torch
from nvidia.dali.plugin.pytorch import feed_ndarray

from cli.errors import UserError
from pipelines.loading.assembled import RegionFiles, assembled
from pipelines.loading.batch import Batch
from pipelines.loading.boxes import to_crop
from pipelines.loading.dali_graphs import DECODED_AHEAD, INPUTS_KEPT, Placement, crop_graph
from pipelines.loading.draw import Draws, region
from pipelines.loading.resample import resample
from pipelines.shards.manifest import Manifest
from pipelines.shards.reader import Shards

PREFETCH = 2
"""Default prefetch depth in batches."""


@dataclass(frozen=True)
class PlannedBatch:
    """Images of one batch of this worker, and their draws."""

    images_B: np.ndarray
    """Indices into the split."""
    draws: Draws


@dataclass(frozen=True)
class _Inputs:
    """A batch that was submitted to DALI; the last three are from `region`."""

    plan: PlannedBatch
    source: RegionFiles
    anchor_B2: list[np.ndarray]
    shape_B2: list[np.ndarray]
    start_B2: list[np.ndarray]
    end_B2: list[np.ndarray]


class Loader:
    """Iterates over the batches of a plan, which a thread prepares ahead; a context manager.

    Each time that it is entered, the plan begins anew. One that is `kept` keeps DALI's pipeline for the next
    time, unless it was left before the end: then the pipeline holds batches that were not taken.

    The iterator raises UserError naming the images of a batch that cannot be decoded.
    """

    def __init__(
        self,
        shards: Shards,
        manifest: Manifest,
        plan: Callable[[], Iterator[PlannedBatch]],
        *,
        side: int,
        rows: int,
        device: torch.device,
        threads: int,
        placement: Placement,
        prefetch: int,
        boxes_N4: np.ndarray | None = None,
        kept: bool = False,
    ) -> None:
        """`side`: of the crop in pixels; `rows`: most images in a batch; `threads`: of the CPU; `prefetch`:
        batches prepared ahead; `boxes_N4`: a box of each image of the split, as fractions of it, if batches are
        to carry them."""
        self._shards, self._plan, self._device, self._side = shards, plan, device, side
        self._batches: Iterator[PlannedBatch] = iter(())
        self._boxes_N4 = boxes_N4
        self._mean_C = np.asarray(manifest.mean_rgb, np.float32)
        self._submitted: deque[_Inputs] = deque()
        self._kept_alive: deque[_Inputs] = deque(maxlen=INPUTS_KEPT)
        self._on_gpu = placement != "cpu"
        # A stream of its own has memory of its own: what queued kernels still read is not overwritten.
        self._copies = torch.cuda.Stream(device) if self._on_gpu else None
        self._prefetch, self._threads, self._kept, self._ended = max(prefetch, 1), threads, kept, False
        self._pipe: Any = None
        self._graph = partial(
            crop_graph,
            self._submit,
            side,
            placement,
            batch_size=max(rows, 1),
            num_threads=threads,
            device_id=(device.index or 0) if self._on_gpu else None,
            prefetch_queue_depth=DECODED_AHEAD,
        )

    def __enter__(self) -> Self:
        if self._pipe is None:
            self._pipe = self._graph()
            self._pipe.build()
        else:
            self._pipe.reset()
        self._batches, self._ended = self._plan(), False
        self._submitted.clear()
        self._ready: Queue[Batch | Exception] = Queue(self._prefetch)
        self._stopped = Event()
        self._producer = Thread(target=self._produce, name="loader", daemon=True)
        self._producer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        while self._producer.is_alive():
            with suppress(Empty):  # makes room for a producer that waits to put its batch
                self._ready.get(timeout=0.01)
        if not (self._kept and self._ended):
            self._pipe = None

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        found = self._ready.get()
        if isinstance(found, Exception):
            self._ready.put(found)  # an exhausted iterator stays exhausted
            raise found
        if self._copies is not None:
            found.images_BHWC.record_stream(torch.cuda.current_stream(self._device))
        return replace(
            found,
            images_BHWC=found.images_BHWC.to(self._device, non_blocking=True),
            offset_BC=found.offset_BC.to(self._device, non_blocking=True),
            labels_B=found.labels_B.to(self._device, non_blocking=True),
            boxes_B4=None if found.boxes_B4 is None else found.boxes_B4.to(self._device, non_blocking=True),
        )

    def _produce(self) -> None:
        """Put batch after batch into the queue, then the exception that ended them."""
        with ThreadPoolExecutor(self._threads) as pool:
            while not self._stopped.is_set():
                found = self._next_batch(pool)
                self._ready.put(found)
                if isinstance(found, Exception):
                    return

    def _next_batch(self, pool: ThreadPoolExecutor) -> Batch | Exception:
        try:
            (decoded,) = self._pipe.run()
        except StopIteration as end:
            self._ended = True
            return end
        except RuntimeError as error:
            images = [int(i) for inputs in self._submitted for i in inputs.plan.images_B[:3]]
            keys = ", ".join(map(self._shards.key, images))
            return UserError(f"an image of the batches of {keys}, … cannot be decoded: {error}")
        except Exception as error:  # noqa: BLE001  # raised again by __next__
            return error
        inputs = self._submitted.popleft()
        images_B = inputs.plan.images_B
        return Batch(
            self._crops(decoded, inputs, pool),
            self._pinned(torch.from_numpy(inputs.plan.draws.shift_BC - self._mean_C)),
            self._pinned(torch.from_numpy(self._shards.labels_N[images_B])),
            images_B,
            self._boxes(inputs.plan),
        )

    def _boxes(self, plan: PlannedBatch) -> torch.Tensor | None:
        if self._boxes_N4 is None:
            return None
        boxes_B4 = to_crop(self._boxes_N4[plan.images_B], plan.draws, self._side)
        return self._pinned(torch.from_numpy(boxes_B4.astype(np.float32)))

    def _crops(self, decoded: Any, inputs: _Inputs, pool: ThreadPoolExecutor) -> torch.Tensor:
        """images_BHWC, in pinned memory if they are to be copied to a GPU."""
        shape = len(inputs.plan.images_B), self._side, self._side, 3
        if self._copies is not None:
            with torch.cuda.stream(self._copies):
                images_BHWC = torch.empty(shape, dtype=torch.uint8, device=self._device)
                feed_ndarray(decoded.as_tensor(), images_BHWC, cuda_stream=self._copies)
            self._copies.synchronize()  # then DALI may reuse its buffer, and any stream may read the copy
            return images_BHWC
        images_BHWC = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        _resample_all(pool, self._threads, decoded, inputs, images_BHWC.numpy())
        return images_BHWC

    def _pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    def _submit(self) -> tuple[list[np.ndarray], ...]:
        """The next batch's inputs, for DALI. StopIteration at the end of the plan."""
        plan = next(self._batches)
        heights_B = self._shards.heights_N[plan.images_B]
        widths_B = self._shards.widths_N[plan.images_B]
        anchor_B2, shape_B2, start_B2, end_B2 = region(plan.draws, heights_B, widths_B, self._side)
        full = len(self._kept_alive) == INPUTS_KEPT
        memory = self._kept_alive[0].source.memory if full else None  # of a batch that DALI has done with
        source = assembled(self._shards, plan.images_B, anchor_B2, shape_B2, memory)
        inputs = _Inputs(plan, source, *map(list, (source.anchor_B2, shape_B2, start_B2, end_B2)))
        self._submitted.append(inputs)
        self._kept_alive.append(inputs)
        if not self._on_gpu:
            return source.files, inputs.anchor_B2, inputs.shape_B2
        mirror_B = list(plan.draws.mirror_B.astype(np.int32))
        return source.files, inputs.anchor_B2, inputs.shape_B2, inputs.start_B2, inputs.end_B2, mirror_B


def _resample_all(
    pool: ThreadPoolExecutor, threads: int, regions: Any, inputs: _Inputs, images_BHWC: np.ndarray
) -> None:
    """Rescale each decoded region into its crop."""
    mirror_B = inputs.plan.draws.mirror_B

    def every_nth(first: int) -> None:
        for i in range(first, len(images_BHWC), threads):
            resample(images_BHWC[i], regions.at(i), inputs.start_B2[i], inputs.end_B2[i], mirror_B[i])

    list(pool.map(every_nth, range(threads)))
