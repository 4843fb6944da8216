"""The boxes of a block of images on a worker: on the centre crop, or at every place of the whole image.

Shapes: B images of one shape, K classes, C classes that an image has boxes for, P places, c: C, or 1 of a net
with one box for all classes, h and w sides of a net's output map, H and W image sides in pixels; 4: xmin, ymin,
xmax, ymax as fractions of the image."""

from dataclasses import dataclass

import numpy as np
import torch

from cluster.layout import Worker
from pipelines.loading.batch import to_input
from pipelines.loading.boxes import from_crop
from pipelines.loading.draw import Draws, centre
from vgg.boxes.geometry import to_edges
from vgg.boxes.regression import boxes_of_classes
from vgg.localisation.candidates import ImageBoxes
from vgg.localisation.provenance import BoxProtocol
from vgg.testing.opened_split import OpenedSplit, SplitOptions
from vgg.testing.protocols import with_mirrors
from vgg.testing.scales import TOTAL_STRIDE
from vgg.weights.trained_net import TrainedNet

KEPT_CLASSES = 10
"""Classes that boxes are kept for, the most probable: five are tested, and those of a fusion may be others."""


@dataclass(frozen=True)
class BoxJob:
    """What all tasks have in common."""

    net: TrainedNet
    classifier: TrainedNet | None
    """None for the true class."""
    protocol: BoxProtocol
    scales: tuple[int, ...]
    split: SplitOptions


@dataclass(frozen=True)
class BoxTask:
    """Images of the split, whose block begins with image `first` of those that are tested."""

    first: int
    images: tuple[int, ...]


class BoxScorer:
    """Finds boxes on one worker."""

    def __init__(self, worker: Worker, job: BoxJob) -> None:
        """Open data and nets. UserError if the data cannot be read."""
        self._job, self._opened = job, OpenedSplit(worker, job.split)
        self._shards = self._opened.shards
        self._net = self._opened.on_device(job.net.module())
        self._classifier = None if job.classifier is None else self._opened.on_device(job.classifier.module())

    @torch.inference_mode()
    def __call__(self, task: BoxTask) -> list[ImageBoxes]:
        """The task's images, in order."""
        with self._opened.precision.autocast():
            found = self._on_centre_crops(task) if self._job.protocol == "centre" else self._everywhere(task)
        return [found[image] for image in task.images]

    def _on_centre_crops(self, task: BoxTask) -> dict[int, ImageBoxes]:
        net, (scale,) = self._job.net, self._job.scales
        side, boxes = net.architecture.side, net.architecture.boxes
        assert boxes is not None
        found = {}
        with self._opened.centre_crops(net, np.asarray(task.images), scale) as loader:
            for batch in loader:
                images_B = batch.images_B
                outputs_BK = self._net(to_input(batch)).flatten(1).float()
                edges_B4 = to_edges(boxes_of_classes(outputs_BK, batch.labels_B, boxes)).cpu().double().numpy()
                draws = centre(self._shards.heights_N[images_B], self._shards.widths_N[images_B], side, scale)
                for image, box_4 in zip(images_B.tolist(), from_crop(edges_B4, draws, side), strict=True):
                    label = int(self._shards.labels_N[image])
                    one = np.ones((1, 1), np.float32)
                    found[image] = ImageBoxes(
                        self._shards.key(image),
                        label,
                        np.empty(0, np.float32),
                        np.array([label], np.int32),
                        box_4.astype(np.float32)[None, None],
                        one,
                    )
        return found

    def _everywhere(self, task: BoxTask) -> dict[int, ImageBoxes]:
        """First the classes, over all scales, then the boxes of those that are kept."""
        posteriors, scores = self._classes(task)
        kept = {image: _most_probable(posterior_K) for image, posterior_K in posteriors.items()}
        boxes: dict[int, list[np.ndarray]] = {image: [] for image in task.images}
        for scale in self._job.scales:
            for images_B, batch_BCHW in self._opened.whole_images(
                self._job.net, np.asarray(task.images), scale
            ):
                maps_BKhw = self._net(with_mirrors(batch_BCHW)).float().cpu()
                for i, image in enumerate(images_B.tolist()):
                    of_image = maps_BKhw[[i, len(images_B) + i]]  # and of its mirror image
                    boxes[image].append(self._boxes(of_image, kept[image], batch_BCHW.shape[2:]))
        return {
            image: ImageBoxes(
                self._shards.key(image),
                int(self._shards.labels_N[image]),
                posteriors[image],
                kept[image],
                np.concatenate(boxes[image]),
                np.concatenate([each_PK[:, kept[image]] for each_PK in scores[image]]),
            )
            for image in task.images
        }

    def _classes(self, task: BoxTask) -> tuple[dict[int, np.ndarray], dict[int, list[np.ndarray]]]:
        """Of each image: class probabilities by the dense protocol over all scales, and those of every
        place."""
        assert self._job.classifier is not None
        assert self._classifier is not None
        means: dict[int, list[np.ndarray]] = {image: [] for image in task.images}
        places: dict[int, list[np.ndarray]] = {image: [] for image in task.images}
        for scale in self._job.scales:
            for images_B, batch_BCHW in self._opened.whole_images(
                self._job.classifier, np.asarray(task.images), scale
            ):
                maps_2BKhw = self._classifier(with_mirrors(batch_BCHW)).float().unflatten(0, (2, -1))
                mean_BK = maps_2BKhw.mean((3, 4)).softmax(2).mean(0).cpu().numpy()
                place_BPK = maps_2BKhw.softmax(2).permute(1, 0, 3, 4, 2).flatten(1, 3).cpu().numpy()
                for i, image in enumerate(images_B.tolist()):
                    means[image].append(mean_BK[i])
                    places[image].append(place_BPK[i])
        posteriors = {}
        for image, of_scales in means.items():
            posteriors[image] = np.stack(of_scales).mean(0, dtype=np.float64).astype(np.float32)
        return posteriors, places

    def _boxes(self, maps_2Khw: torch.Tensor, classes_C: np.ndarray, shape: torch.Size) -> np.ndarray:
        """boxes_Pc4 of an image's output map and its mirror image's."""
        net = self._job.net.architecture
        assert net.boxes is not None
        wanted = [0] if net.boxes == "single" else classes_C.tolist()
        down, across = maps_2Khw.shape[2:]
        outputs_PK = maps_2Khw.permute(0, 2, 3, 1).flatten(0, 2)
        places_3P = np.indices((2, down, across)).reshape(3, -1)
        rows = places_3P.shape[1]
        draws = Draws(
            np.full(rows, shape[0]),
            np.full(rows, shape[1]),
            TOTAL_STRIDE * places_3P[1],
            # The crop lies so far from the left edge of the mirror image, or from the right one of the image.
            np.where(
                places_3P[0], shape[1] - net.side - TOTAL_STRIDE * places_3P[2], TOTAL_STRIDE * places_3P[2]
            ),
            places_3P[0] == 1,
            np.zeros((rows, 3), np.float32),
        )
        boxes = []
        for label in wanted:
            of_class_P = torch.full((rows,), label)
            edges_P4 = to_edges(boxes_of_classes(outputs_PK, of_class_P, net.boxes)).double().numpy()
            boxes.append(from_crop(edges_P4, draws, net.side))
        return np.stack(boxes, 1).astype(np.float32)


def _most_probable(posterior_K: np.ndarray) -> np.ndarray:
    """The classes that are kept, int32 [C], the most probable first, of equals the first."""
    return np.argsort(-posterior_K, kind="stable")[:KEPT_CLASSES].astype(np.int32)
