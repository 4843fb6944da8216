"""Accuracy of class probabilities: exact error counts, their intervals, accuracy per class, calibration.

Of equal probabilities the true class's is the last: an image is right only if its true class is scored higher
than every other, and among the best five only if fewer than five others are scored as high. So a tie never
counts in a net's favour, and the order of the classes decides nothing.

Shapes: N images, B images of a block, K classes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cli.errors import UserError
from vgg.metrics.confusion import confusion_matrix
from vgg.metrics.interval import wilson_interval
from vgg.metrics.rows import Rows, blocks_of
from vgg.metrics.top5 import TOP

CALIBRATION_BINS = 15

SMALLEST = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Accuracy:
    """Counts over all images, and the metrics derived from them. Errors and intervals are in percent."""

    seen: int
    top1_wrong: int
    top5_wrong: int
    """Images whose true class is not among the five best-scored (none if there are at most five classes)."""
    top1_interval: tuple[float, float]
    """95 % Wilson interval of the top-1 error."""
    top5_interval: tuple[float, float]
    calibration_error: float
    """Expected calibration error (Guo et al. 2017), a fraction: mean gap between confidence and accuracy."""
    class_accuracy_K: tuple[float | None, ...]
    """Top-1 accuracy of each true class, a fraction; None for a class without images."""
    loss: float
    """Mean cross-entropy in nats. A probability of 0 counts as float32's smallest, 87 nats."""
    majority_share: float
    """Share of images of the largest class, a fraction: the accuracy of a net that always answers it."""

    @property
    def top1_error(self) -> float:
        """Percent."""
        return 100 * self.top1_wrong / self.seen

    @property
    def top5_error(self) -> float:
        """Percent."""
        return 100 * self.top5_wrong / self.seen

    def to_json(self) -> dict[str, Any]:
        """The fields of result.json."""
        return {
            "images": self.seen,
            "top1_wrong": self.top1_wrong,
            "top5_wrong": self.top5_wrong,
            "top1_error": self.top1_error,
            "top5_error": self.top5_error,
            "top1_interval": list(self.top1_interval),
            "top5_interval": list(self.top5_interval),
            "majority_share": self.majority_share,
            "loss": self.loss,
            "calibration_error": self.calibration_error,
            "class_accuracy": list(self.class_accuracy_K),
        }


class Tally:
    """Counts over images that are added block by block."""

    def __init__(self, classes: int) -> None:
        self.confusion_KK = np.zeros((classes, classes), np.int64)
        """Images by true class (row) and best-scored class (column)."""
        self._top5_wrong, self._nats = 0, 0.0
        self._gap_by_bin = np.zeros(CALIBRATION_BINS)

    def add(self, posteriors_BK: np.ndarray, labels_B: np.ndarray) -> None:
        """Count these images."""
        best_B = best_scored(posteriors_BK, labels_B)
        counts_KK = confusion_matrix(torch.tensor(labels_B), torch.tensor(best_B), len(self.confusion_KK))
        self.confusion_KK += counts_KK.numpy()
        self._top5_wrong += int((ranks(posteriors_BK, labels_B) >= TOP).sum())
        true_B = posteriors_BK[np.arange(len(labels_B)), labels_B]
        self._nats -= float(np.log(np.maximum(true_B, SMALLEST), dtype=np.float64).sum())
        confidence_B, right_B = posteriors_BK.max(1), best_B == labels_B
        bins_B = np.clip(np.ceil(confidence_B * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
        self._gap_by_bin += np.bincount(bins_B, confidence_B.astype(np.float64) - right_B, CALIBRATION_BINS)

    def accuracy(self) -> Accuracy:
        """Of all images so far. UserError if there is none."""
        images_K, right_K = self.confusion_KK.sum(1), self.confusion_KK.diagonal()
        seen = int(images_K.sum())
        if seen == 0:
            raise UserError("there is no image to score")
        top1_wrong = seen - int(right_K.sum())
        return Accuracy(
            seen,
            top1_wrong,
            self._top5_wrong,
            wilson_interval(top1_wrong, seen),
            wilson_interval(self._top5_wrong, seen),
            float(np.abs(self._gap_by_bin).sum() / seen),
            tuple(
                float(right / images) if images else None
                for right, images in zip(right_K, images_K, strict=True)
            ),
            self._nats / seen,
            int(images_K.max()) / seen,
        )


def tally(posteriors_NK: np.ndarray | Rows, labels_N: np.ndarray) -> Tally:
    """Compare class probabilities with the true classes, a block at a time."""
    images, classes = posteriors_NK.shape
    counted = Tally(classes)
    for rows in blocks_of(images):
        counted.add(posteriors_NK[rows], labels_N[rows])
    return counted


def accuracy(posteriors_NK: np.ndarray | Rows, labels_N: np.ndarray) -> Accuracy:
    """Compare class probabilities with the true classes. UserError if there is no image."""
    return tally(posteriors_NK, labels_N).accuracy()


def ranks(posteriors_BK: np.ndarray, labels_B: np.ndarray) -> np.ndarray:
    """Rank of the true class, int64 [B]: how many others are scored as high or higher."""
    true_B1 = np.take_along_axis(posteriors_BK, labels_B[:, None].astype(np.int64), 1)
    return (posteriors_BK >= true_B1).sum(1) - 1


def best_scored(posteriors_BK: np.ndarray, labels_B: np.ndarray) -> np.ndarray:
    """The best-scored class, int64 [B]; the first other than the true one if that is scored no higher."""
    rows_B = np.arange(len(labels_B))
    others_BK = posteriors_BK.copy()
    others_BK[rows_B, labels_B] = -1
    other_B = others_BK.argmax(1)
    right_B = posteriors_BK[rows_B, labels_B] > others_BK[rows_B, other_B]
    return np.where(right_B, labels_B, other_B)
