"""Accuracy of class probabilities: exact error counts, their intervals, accuracy per class, calibration.

Shapes: N images, K classes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cli.errors import UserError
from vgg.metrics.interval import wilson_interval

CALIBRATION_BINS = 15


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
            "calibration_error": self.calibration_error,
            "class_accuracy": list(self.class_accuracy_K),
        }


def ranks(posteriors_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Rank of the true class, int64 [N]: 0 if it is the best-scored; ties go to the lower class index."""
    rows = np.arange(len(labels_N))
    true_N1 = posteriors_NK[rows, labels_N][:, None]
    earlier_NK = np.arange(posteriors_NK.shape[1]) < labels_N[:, None]
    return ((posteriors_NK > true_N1) | ((posteriors_NK == true_N1) & earlier_NK)).sum(1)


def accuracy(posteriors_NK: np.ndarray, labels_N: np.ndarray) -> Accuracy:
    """Compare posteriors with the true classes. UserError if there is no image."""
    seen, classes = posteriors_NK.shape
    if seen == 0:
        raise UserError("there is no image to score")
    rank_N = ranks(posteriors_NK, labels_N)
    top1_wrong, top5_wrong = int((rank_N >= 1).sum()), int((rank_N >= 5).sum())
    images_K = np.bincount(labels_N, minlength=classes)
    right_K = np.bincount(labels_N[rank_N == 0], minlength=classes)
    return Accuracy(
        seen,
        top1_wrong,
        top5_wrong,
        wilson_interval(top1_wrong, seen),
        wilson_interval(top5_wrong, seen),
        _calibration_error(posteriors_NK, labels_N),
        tuple(
            float(right / images) if images else None for right, images in zip(right_K, images_K, strict=True)
        ),
    )


def _calibration_error(posteriors_NK: np.ndarray, labels_N: np.ndarray) -> float:
    confidence_N, right_N = posteriors_NK.max(1), posteriors_NK.argmax(1) == labels_N
    bins_N = np.clip(np.ceil(confidence_N * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    gaps = np.bincount(bins_N, confidence_N.astype(np.float64) - right_N, CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels_N))
