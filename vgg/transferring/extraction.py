"""Activations of a block of images, or of what their boxes show, on a worker: fc7's, averaged over all places
and the mirror image.

Shapes: B images of one shape, C = 3, H and W image sides in pixels, F units of fc7, h and w sides of its map.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cluster.layout import Worker
from vgg.net.architecture import HIDDEN
from vgg.net.module import VGG
from vgg.testing.opened_split import OpenedSplit, SplitOptions
from vgg.testing.protocols import with_mirrors
from vgg.transferring.provenance import Region
from vgg.weights.trained_net import TrainedNet


@dataclass(frozen=True)
class FeatureJob:
    """What all tasks have in common."""

    nets: tuple[TrainedNet, ...]
    split: SplitOptions


@dataclass(frozen=True)
class FeatureTask:
    """Images `first` to `stop` - 1 of the split by one net at one scale in one region."""

    net: int
    """Index in the job's nets."""
    scale: int
    region: Region
    first: int
    stop: int


class FeatureExtractor:
    """Computes activations on one worker."""

    def __init__(self, worker: Worker, job: FeatureJob) -> None:
        """Open the data. UserError if they cannot be read."""
        self._job, self._opened = job, OpenedSplit(worker, job.split, labelled=False)

    @torch.inference_mode()
    def __call__(self, task: FeatureTask) -> np.ndarray:
        """[B, F] float32 of the task's images, in the order of the split; not normalised."""
        net = self._job.nets[task.net]
        module = self._opened.in_turn(net, without_last_layer)
        units = net.architecture.scaled(HIDDEN)
        activations_BF = np.empty((task.stop - task.first, units), np.float32)
        with self._opened.precision.autocast():
            images = range(task.first, task.stop)
            boxed = task.region == "box"
            for images_B, images_BCHW in self._opened.whole_images(net, images, task.scale, boxed=boxed):
                maps_2BFhw = module(with_mirrors(images_BCHW)).float()
                means_BF = maps_2BFhw.mean((2, 3)).unflatten(0, (2, -1)).mean(0)
                activations_BF[images_B - task.first] = means_BF.cpu().numpy()
        return activations_BF


def without_last_layer(net: TrainedNet) -> VGG:
    """The net's module, which answers fc7's activations after the ReLU at every place (paper, appendix B)."""
    module = net.module()
    module.add_module("fc8", nn.Identity())
    return module
