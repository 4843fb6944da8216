"""Scoring on a worker: class probabilities of one block of images by one net, protocol and scale at a time.

Shapes: B images, C = 3, H and W image sides in pixels, K classes.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from cluster.layout import Worker
from pipelines.loading.batch import to_input
from pipelines.loading.dali_graphs import Placement
from pipelines.loading.loaders import EvalLoader
from pipelines.loading.whole_images import whole_images
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.staging import StagingOptions, stage
from pipelines.shards.verification import verify
from vgg.net.module import VGG
from vgg.net.precision import MixedPrecision, Precision, autocast_dtype
from vgg.testing.protocols import GRID, Average, Pass, dense, multi_crop
from vgg.testing.winograd import WinogradVGG
from vgg.weights.trained_net import TrainedNet

BLOCK = 250
"""Images per task: what is lost when a worker dies."""


@dataclass(frozen=True)
class ScoringTask:
    """Score images `first` to `stop` - 1 of the split by one pass of one net."""

    net: int
    """Index in the job's nets."""
    pass_: Pass
    first: int
    stop: int


@dataclass(frozen=True)
class ScoredBlock:
    """What a worker makes of a task."""

    posteriors_BK: np.ndarray
    """Class probabilities, float32."""
    precision: str
    """Of the worker's arithmetic: fp32, bf16 or fp16."""


@dataclass(frozen=True)
class ScoringJob:
    """What all tasks have in common."""

    nets: tuple[TrainedNet, ...]
    data: StagingOptions
    """The packed data set, and where it is downloaded to if it is at a URI."""
    split: str
    precision: Precision = "auto"
    average: Average = "scores"
    grid: int = GRID
    batch: int = 32
    """Crops per forward pass. Whole images are batched to at most the same number of pixels."""
    decode: Placement = "cpu"


def blocks(images: int) -> list[tuple[int, int]]:
    """(first, stop) of every block of a split; independent of the number of workers."""
    return [(first, min(first + BLOCK, images)) for first in range(0, images, BLOCK)]


class Scorer:
    """Scores tasks on one worker, with one net on the device at a time."""

    def __init__(self, worker: Worker, job: ScoringJob) -> None:
        """Open the data. UserError if it cannot be read."""
        root = stage(job.data, splits=(job.split,), underway=True, flag="--data")
        self._worker, self._job, self._manifest = worker, job, read_manifest(root)
        verify(root, self._manifest, (job.split,))
        self._shards = Shards(root, self._manifest, job.split)
        self._precision = MixedPrecision(autocast_dtype(job.precision, worker.device), worker.device)
        if worker.device.type == "cuda":  # fp32 means IEEE arithmetic, not TF32's ten bits of mantissa
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self._on_device: tuple[int, VGG | WinogradVGG] | None = None
        """Index and module of the net that was used last."""

    @torch.inference_mode()
    def __call__(self, task: ScoringTask) -> ScoredBlock:
        """Class probabilities of the task's images, in the order of the split."""
        single_crop = task.pass_.protocol == "single-crop"
        with self._precision.autocast():
            posteriors_BK = self._score_single_crops(task) if single_crop else self._score_whole_images(task)
        return ScoredBlock(posteriors_BK, self._precision.name)

    def _score_single_crops(self, task: ScoringTask) -> np.ndarray:
        """By the centre crop, which is all that is decoded of an image."""
        net, module, posteriors_BK = self._prepare(task)
        loader = EvalLoader(
            self._shards,
            replace(self._manifest, mean_rgb=net.mean_rgb),
            range(task.first, task.stop),
            side=net.architecture.side,
            scale=task.pass_.scale,
            batch=self._job.batch,
            device=self._worker.device,
            threads=self._worker.threads,
            placement=self._job.decode,
        )
        with loader:
            for batch in loader:
                scores_BK = module(to_input(batch)).flatten(1).float()
                posteriors_BK[batch.images_B - task.first] = scores_BK.softmax(1).cpu().numpy()
        return posteriors_BK

    def _score_whole_images(self, task: ScoringTask) -> np.ndarray:
        """By the dense or the multi-crop protocol, from rescaled whole images."""
        net, module, posteriors_BK = self._prepare(task)
        job, side, device = self._job, net.architecture.side, self._worker.device
        mean_C = torch.tensor(net.mean_rgb, device=device)
        for batch in whole_images(
            self._shards,
            range(task.first, task.stop),
            scale=task.pass_.scale,
            pixels=job.batch * side**2 // 2,  # the mirror images are the other half
            device=device,
            threads=self._worker.threads,
            placement=job.decode,
        ):
            images_BCHW = (batch.images_BHWC.float() - mean_C).permute(0, 3, 1, 2)
            if task.pass_.protocol == "dense":
                means_BK = dense(module, images_BCHW, average=job.average)
            else:
                means_BK = multi_crop(module, images_BCHW, side=side, grid=job.grid, batch=job.batch)
            posteriors_BK[batch.images_B - task.first] = means_BK.cpu().numpy()
        return posteriors_BK

    def _prepare(self, task: ScoringTask) -> tuple[TrainedNet, VGG | WinogradVGG, np.ndarray]:
        """The task's net, its module on the device, and an array for the results."""
        net, device = self._job.nets[task.net], self._worker.device
        if self._on_device is None or self._on_device[0] != task.net:
            self._on_device = None  # frees the device's memory first
            module = net.module().to(device)
            # On a CPU in float32, Winograd's convolutions are 1.5 to 2 times as fast as torch's.
            by_winograd = device.type == "cpu" and self._precision.dtype == torch.float32
            self._on_device = task.net, WinogradVGG(module) if by_winograd else module
        results_BK = np.empty((task.stop - task.first, net.architecture.classes), np.float32)
        return net, self._on_device[1], results_BK
