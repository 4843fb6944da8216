"""Scoring on a worker: class probabilities of one block of images by one net, protocol and scale at a time.

Shapes: B images, C = 3, H and W image sides in pixels, K classes.
"""

from dataclasses import dataclass

import numpy as np
import torch

from cluster.layout import Worker
from pipelines.loading.batch import to_input
from vgg.testing.opened_split import Module, OpenedSplit, SplitOptions
from vgg.testing.protocols import GRID, Average, Pass, dense, multi_crop
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
    split: SplitOptions
    average: Average = "scores"
    grid: int = GRID


def blocks(images: int) -> list[tuple[int, int]]:
    """(first, stop) of every block of a split; independent of the number of workers."""
    return [(first, min(first + BLOCK, images)) for first in range(0, images, BLOCK)]


class Scorer:
    """Scores tasks on one worker, with one net on the device at a time."""

    def __init__(self, worker: Worker, job: ScoringJob) -> None:
        """Open the data. UserError if it cannot be read."""
        self._job, self._opened = job, OpenedSplit(worker, job.split)

    @torch.inference_mode()
    def __call__(self, task: ScoringTask) -> ScoredBlock:
        """Class probabilities of the task's images, in the order of the split."""
        single_crop = task.pass_.protocol == "single-crop"
        with self._opened.precision.autocast():
            posteriors_BK = self._score_single_crops(task) if single_crop else self._score_whole_images(task)
        return ScoredBlock(posteriors_BK, self._opened.precision.name)

    def _score_single_crops(self, task: ScoringTask) -> np.ndarray:
        """By the centre crop, which is all that is decoded of an image."""
        net, module, posteriors_BK = self._prepare(task)
        with self._opened.centre_crops(net, range(task.first, task.stop), task.pass_.scale) as loader:
            for batch in loader:
                scores_BK = module(to_input(batch)).flatten(1).float()
                posteriors_BK[batch.images_B - task.first] = scores_BK.softmax(1).cpu().numpy()
        return posteriors_BK

    def _score_whole_images(self, task: ScoringTask) -> np.ndarray:
        """By the dense or the multi-crop protocol, from rescaled whole images."""
        net, module, posteriors_BK = self._prepare(task)
        job, side, images = self._job, net.architecture.side, range(task.first, task.stop)
        for images_B, images_BCHW in self._opened.whole_images(net, images, task.pass_.scale):
            if task.pass_.protocol == "dense":
                means_BK = dense(module, images_BCHW, average=job.average)
            else:
                means_BK = multi_crop(module, images_BCHW, side=side, grid=job.grid, batch=job.split.batch)
            posteriors_BK[images_B - task.first] = means_BK.cpu().numpy()
        return posteriors_BK

    def _prepare(self, task: ScoringTask) -> tuple[TrainedNet, Module, np.ndarray]:
        """The task's net, its module on the device, and an array for the results."""
        net = self._job.nets[task.net]
        results_BK = np.empty((task.stop - task.first, net.architecture.classes), np.float32)
        return net, self._opened.in_turn(net), results_BK
