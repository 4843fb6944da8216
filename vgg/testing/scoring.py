"""What a worker of an evaluation does: one net, one part of a protocol, one block of images at a time.

Shapes: B images, C = 3, H and W image sides in pixels, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

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
from vgg.net.precision import Precision, autocast_dtype
from vgg.testing.protocols import GRID, Average, Pass, dense, multi_crop
from vgg.testing.winograd import WinogradVGG
from vgg.weights.trained_net import TrainedNet

BLOCK = 250
"""Images of a task: what is lost when a worker dies."""


@dataclass(frozen=True)
class ScoringTask:
    """Score a block of images: places `first` to `stop` of the split."""

    net: int
    """Place in the list of nets."""
    part: Pass
    first: int
    stop: int


@dataclass(frozen=True)
class Scoring:
    """The same for all tasks."""

    nets: tuple[TrainedNet, ...]
    data: StagingOptions
    """Where the packed data set lies, and where one at a URI is brought to."""
    split: str
    precision: Precision = "auto"
    average: Average = "scores"
    grid: int = GRID
    batch: int = 32
    """Crops that a net is given at once; of larger images so many that they have no more pixels."""
    decode: Placement = "cpu"


def blocks(images: int) -> list[tuple[int, int]]:
    """First and stop of every block of a split, whatever the workers."""
    return [(first, min(first + BLOCK, images)) for first in range(0, images, BLOCK)]


def make_scorer(worker: Worker, scoring: Scoring) -> Callable[[ScoringTask], np.ndarray]:
    """Open the data on this worker; what then scores a task, as posteriors_BK float32 in the split's order.

    ValueError where the data cannot be read.
    """
    root = stage(scoring.data)
    manifest = read_manifest(root)
    verify(root, manifest)
    shards = Shards(root, manifest, scoring.split)
    dtype = autocast_dtype(scoring.precision, worker.device)
    if worker.device.type == "cuda":  # fp32 means IEEE arithmetic, not ten bits of it
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    minimal = worker.device.type == "cpu" and dtype == torch.float32  # there 1.5 to 2 times as fast
    current: dict[int, VGG | WinogradVGG] = {}

    @torch.inference_mode()
    def score(task: ScoringTask) -> np.ndarray:
        net = scoring.nets[task.net]
        if task.net not in current:
            current.clear()  # one net on the device at a time
            module = net.module().to(worker.device)
            current[task.net] = WinogradVGG(module) if minimal else module
        images = range(task.first, task.stop)
        posteriors_BK = np.empty((len(images), net.architecture.classes), np.float32)
        with torch.autocast(worker.device.type, dtype, enabled=dtype != torch.float32):
            if task.part.protocol == "single-crop":
                loader = EvalLoader(
                    shards,
                    replace(manifest, mean_rgb=net.mean_rgb),
                    images,
                    side=net.architecture.side,
                    scale=task.part.scale,
                    batch=scoring.batch,
                    device=worker.device,
                    threads=worker.threads,
                    placement=scoring.decode,
                )
                with loader:
                    for crops in loader:
                        scores_BK = current[task.net](to_input(crops)).flatten(1).float()
                        posteriors_BK[crops.images_B - task.first] = scores_BK.softmax(1).cpu().numpy()
                return posteriors_BK
            mean_C = torch.tensor(net.mean_rgb, device=worker.device)
            for whole in whole_images(
                shards,
                images,
                scale=task.part.scale,
                pixels=scoring.batch * net.architecture.side**2 // 2,  # the mirror images are the other half
                device=worker.device,
                threads=worker.threads,
                placement=scoring.decode,
            ):
                images_BCHW = (whole.images_BHWC.float() - mean_C).permute(0, 3, 1, 2)
                found_BK = _posteriors(current[task.net], images_BCHW, task.part, net, scoring)
                posteriors_BK[whole.images_B - task.first] = found_BK.cpu().numpy()
        return posteriors_BK

    return score


def _posteriors(
    module: nn.Module, images_BCHW: torch.Tensor, part: Pass, net: TrainedNet, scoring: Scoring
) -> torch.Tensor:
    if part.protocol == "dense":
        return dense(module, images_BCHW, average=scoring.average)
    side = net.architecture.side
    return multi_crop(module, images_BCHW, side=side, grid=scoring.grid, batch=scoring.batch)
