"""Executes draws with DALI; it decides nothing and reads no random state.

Pixels are those of the whole image rescaled by a triangle filter (antialiased, as PIL's BILINEAR), cut, then
mirrored. Only the region of the file that the crop needs is decoded, with the margin the filter reaches into.
DALI decodes; `pipelines/loading/resample.py` rescales on the CPU, DALI on the GPU.

Shapes: B images of this worker, H and W sides of the crop in pixels, C = 3 (RGB, 0 to 255).
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, Literal, Self

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import feed_ndarray

from pipelines.loading.batch import Batch
from pipelines.loading.draw import Draws, region
from pipelines.loading.resample import resample
from pipelines.shards.manifest import Manifest
from pipelines.shards.reader import Shards

Placement = Literal["cpu", "regions", "gpu"]
"""cpu: all on the CPU. regions: decoded on the CPU, resized on the GPU. gpu: decoded there too."""


PREFETCH = 2
"""Batches that stand ready, where nothing else is asked for."""


DECODED_AHEAD = 2  # batches that DALI holds: one is decoded while the other is resampled


@dataclass(frozen=True)
class PlannedBatch:
    """Images of one batch of this worker and what is drawn for them."""

    images_B: np.ndarray
    draws: Draws


@dataclass(frozen=True)
class _Fed:
    """A batch that DALI was given; of the last four, see `region`."""

    rows: PlannedBatch
    files: list[np.ndarray]
    anchor_B2: list[np.ndarray]
    shape_B2: list[np.ndarray]
    start_B2: list[np.ndarray]
    end_B2: list[np.ndarray]


class Loader:
    """Iterates over the batches of `plan`, which a thread prepares ahead; a context manager, used once."""

    def __init__(
        self,
        shards: Shards,
        manifest: Manifest,
        plan: Iterator[PlannedBatch],
        *,
        side: int,
        rows: int,
        device: torch.device,
        threads: int,
        placement: Placement,
        prefetch: int,
    ) -> None:
        self._shards, self._plan, self._device, self._side = shards, plan, device, side
        self._mean_C = np.asarray(manifest.mean_rgb, np.float32)
        self._fed: deque[_Fed] = deque()
        self._kept: deque[_Fed] = deque(maxlen=DECODED_AHEAD + 3)  # DALI reads these arrays without a copy
        self._on_gpu = placement != "cpu"
        self._ready: Queue[Batch | Exception] = Queue(max(prefetch, 1))
        self._stopped = Event()
        self._threads = threads
        self._pipe = _graph(
            self._feed,
            side,
            placement,
            batch_size=max(rows, 1),
            num_threads=threads,
            device_id=(device.index or 0) if self._on_gpu else None,
            prefetch_queue_depth=DECODED_AHEAD,
        )
        self._pipe.build()
        self._producer = Thread(target=self._produce, name="loader", daemon=True)

    def __enter__(self) -> Self:
        self._producer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        while self._producer.is_alive():
            with suppress(Empty):  # a producer that waits for room sees that it is over
                self._ready.get(timeout=0.01)
        del self._pipe

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        found = self._ready.get()
        if isinstance(found, Exception):
            self._ready.put(found)  # an iterator that has ended stays at its end
            raise found
        return replace(
            found,
            images_BHWC=found.images_BHWC.to(self._device, non_blocking=True),
            offset_BC=found.offset_BC.to(self._device, non_blocking=True),
            labels_B=found.labels_B.to(self._device, non_blocking=True),
        )

    def _produce(self) -> None:
        """Put batch after batch into the queue, then what ended them."""
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
            return end
        except RuntimeError as error:
            keys = ", ".join(self._shards.key(int(i)) for fed in self._fed for i in fed.rows.images_B[:3])
            return ValueError(f"an image of the batches of {keys}, … cannot be decoded: {error}")
        except Exception as error:  # noqa: BLE001  # raised again where the batches are asked for
            return error
        fed = self._fed.popleft()
        pin = self._device.type == "cuda"
        images_BHWC = torch.empty(
            len(fed.rows.images_B),
            self._side,
            self._side,
            3,
            dtype=torch.uint8,
            device=self._device if self._on_gpu else "cpu",
            pin_memory=pin and not self._on_gpu,
        )
        if self._on_gpu:
            feed_ndarray(decoded.as_tensor(), images_BHWC)
        else:
            _resample_all(pool, self._threads, decoded, fed, images_BHWC.numpy())
        offset_BC = torch.from_numpy(fed.rows.draws.shift_BC - self._mean_C)
        labels_B = torch.from_numpy(self._shards.labels_N[fed.rows.images_B])
        return Batch(
            images_BHWC,
            offset_BC.pin_memory() if pin else offset_BC,
            labels_B.pin_memory() if pin else labels_B,
            fed.rows.images_B,
        )

    def _feed(self) -> tuple[list[np.ndarray], ...]:
        rows = next(self._plan)
        heights_B = self._shards.heights_N[rows.images_B]
        widths_B = self._shards.widths_N[rows.images_B]
        files = [self._shards.encoded(int(i)) for i in rows.images_B]
        fed = _Fed(rows, files, *map(list, region(rows.draws, heights_B, widths_B, self._side)))
        self._fed.append(fed)
        self._kept.append(fed)
        if not self._on_gpu:
            return fed.files, fed.anchor_B2, fed.shape_B2
        mirror_B1 = list(rows.draws.mirror_B.astype(np.int32))
        return fed.files, fed.anchor_B2, fed.shape_B2, fed.start_B2, fed.end_B2, mirror_B1


def _resample_all(
    pool: ThreadPoolExecutor, threads: int, regions: Any, fed: _Fed, images_BHWC: np.ndarray
) -> None:
    mirror_B = fed.rows.draws.mirror_B

    def some(first: int) -> None:
        for i in range(first, len(images_BHWC), threads):
            resample(images_BHWC[i], regions.at(i), fed.start_B2[i], fed.end_B2[i], mirror_B[i])

    list(pool.map(some, range(threads)))


@pipeline_def
def _graph(feed: Callable[[], Any], side: int, placement: Placement) -> Any:
    """Regions as uint8 where they are resampled on the CPU, else crops on the GPU."""
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
