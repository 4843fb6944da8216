"""A split as a worker has it open: its images as crops or whole, and nets ready to run over them.

Shapes: B images of one shape, C = 3, H and W image sides in pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from cluster.layout import Worker
from pipelines.loading.boxes import parts
from pipelines.loading.dali_graphs import Placement
from pipelines.loading.loaders import EvalLoader
from pipelines.loading.whole_images import whole_images
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.staging import StagingOptions, stage
from pipelines.shards.verification import verify
from vgg.net.module import VGG
from vgg.net.precision import MixedPrecision, Precision, autocast_dtype
from vgg.testing.winograd import WinogradVGG
from vgg.weights.trained_net import TrainedNet

Module = VGG | WinogradVGG


@dataclass(frozen=True)
class SplitOptions:
    """Which split, and how it is computed on."""

    data: StagingOptions
    """The packed data set, and where it is downloaded to if it is at a URI."""
    split: str
    precision: Precision = "auto"
    batch: int = 32
    """Crops per forward pass. Whole images are batched to at most the same number of pixels."""
    decode: Placement = "cpu"


class OpenedSplit:
    """One split on one worker."""

    def __init__(self, worker: Worker, options: SplitOptions, *, labelled: bool = True) -> None:
        """Open the data. UserError if they cannot be read, or, unless `labelled` is false, an image is not of
        one class."""
        root = stage(options.data, splits=(options.split,), underway=True, flag="--data")
        self.worker, self._options, self._manifest = worker, options, read_manifest(root)
        verify(root, self._manifest, (options.split,))
        self.shards = Shards(root, self._manifest, options.split, labelled=labelled)
        self.precision = MixedPrecision(autocast_dtype(options.precision, worker.device), worker.device)
        self._in_turn: tuple[str, Module] | None = None
        if worker.device.type == "cuda":  # fp32 means IEEE arithmetic, not TF32's ten bits of mantissa
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def on_device(self, module: VGG) -> Module:
        """A net's module, which is not used otherwise any more, on the device."""
        module = module.to(self.worker.device)
        # On a CPU in float32, Winograd's convolutions are 1.5 to 2 times as fast as torch's.
        by_winograd = self.worker.device.type == "cpu" and self.precision.dtype == torch.float32
        return WinogradVGG(module) if by_winograd else module

    def in_turn(self, net: TrainedNet, make: Callable[[TrainedNet], VGG] = TrainedNet.module) -> Module:
        """A net's module on the device, kept until another net's is asked for: one at a time has to fit.

        `make`: always the same of one opened split.
        """
        if self._in_turn is None or self._in_turn[0] != net.weights_sha256:
            self._in_turn = None  # frees the device's memory first
            self._in_turn = net.weights_sha256, self.on_device(make(net))
        return self._in_turn[1]

    def centre_crops(self, net: TrainedNet, images: np.ndarray | range, scale: int) -> EvalLoader:
        """The centre crops of these images, less the net's mean; a context to leave when they are read."""
        return EvalLoader(
            self.shards,
            replace(self._manifest, mean_rgb=net.mean_rgb),
            images,
            side=net.architecture.side,
            scale=scale,
            batch=self._options.batch,
            device=self.worker.device,
            threads=self.worker.threads,
            placement=self._options.decode,
        )

    @cached_property
    def boxed_parts_N4(self) -> np.ndarray:
        """Of each image what its box shows: see `pipelines.loading.boxes.parts`. Every image must have one."""
        boxes_N4 = self.shards.own_boxes().targets_N4
        assert not np.isnan(boxes_N4).any()
        return parts(boxes_N4, self.shards.heights_N, self.shards.widths_N)

    def whole_images(
        self, net: TrainedNet, images: np.ndarray | range, scale: int, *, boxed: bool = False
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Indices and pixels [B, C, H, W], less the net's mean, of these images, rescaled but not cropped, in
        batches of one shape; ordered by shape. `boxed`: of what their boxes show, each for the image."""
        mean_C = torch.tensor(net.mean_rgb, device=self.worker.device)
        for batch in whole_images(
            self.shards,
            images,
            scale=scale,
            pixels=self._options.batch * net.architecture.side**2 // 2,  # the mirror images are the other half
            device=self.worker.device,
            threads=self.worker.threads,
            placement=self._options.decode,
            parts_N4=self.boxed_parts_N4 if boxed else None,
        ):
            yield batch.images_B, (batch.images_BHWC.float() - mean_C).permute(0, 3, 1, 2)
