"""What the machines' scores on test images are worth: of images with one class, or with several.

Shapes: N images, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vgg.metrics.average_precision import average_precision_2007, average_precision_2010
from vgg.metrics.interval import wilson_interval


@dataclass(frozen=True)
class OneClass:
    """A test of images with one class each."""

    right_K: np.ndarray
    """Images of each class that its machine scored highest."""
    images_K: np.ndarray

    @classmethod
    def of(cls, scores_NK: np.ndarray, targets_NK: np.ndarray) -> "OneClass":
        """Of classes scored alike the first counts as the highest."""
        labels_N, classes = (targets_NK == 1).argmax(1), targets_NK.shape[1]
        right_N = scores_NK.argmax(1) == labels_N
        return cls(np.bincount(labels_N[right_N], minlength=classes), np.bincount(labels_N, minlength=classes))

    @property
    def mean_class_recall(self) -> float:
        """In percent, over the classes that have test images."""
        there_K = self.images_K > 0
        return float(100 * (self.right_K[there_K] / self.images_K[there_K]).mean())

    def to_json(self) -> dict[str, Any]:
        """In percent, with counts and the 95 % interval of the accuracy."""
        right, images = int(self.right_K.sum()), int(self.images_K.sum())
        low, high = wilson_interval(images - right, images)
        return {
            "images": images,
            "right": right,
            "accuracy": 100 * right / images,
            "accuracy_interval": [100 - high, 100 - low],
            "mean_class_recall": self.mean_class_recall,
            "right_by_class": self.right_K.tolist(),
            "images_by_class": self.images_K.tolist(),
        }


@dataclass(frozen=True)
class SeveralClasses:
    """A test of images with several classes, or none, each."""

    images: int
    ap_2007_K: np.ndarray
    """Average precisions as fractions, NaN for a class without an image."""
    ap_2010_K: np.ndarray

    @classmethod
    def of(cls, scores_NK: np.ndarray, targets_NK: np.ndarray) -> "SeveralClasses":
        """Images whose target is 0 are left out of a class."""
        by_year: tuple[Callable[..., float], ...] = (average_precision_2007, average_precision_2010)
        found = [[], []]  # type: list[list[float]]
        for k in range(targets_NK.shape[1]):
            counted_N = targets_NK[:, k] != 0
            for precision, values in zip(by_year, found, strict=True):
                values.append(precision(scores_NK[counted_N, k], targets_NK[counted_N, k] == 1))
        return cls(len(targets_NK), np.array(found[0]), np.array(found[1]))

    def to_json(self) -> dict[str, Any]:
        """In percent, by both definitions."""
        return {
            "images": self.images,
            "map_2007": 100 * mean_of_numbers(self.ap_2007_K),
            "map_2010": 100 * mean_of_numbers(self.ap_2010_K),
            "ap_2007_by_class": _percent(self.ap_2007_K),
            "ap_2010_by_class": _percent(self.ap_2010_K),
        }


def mean_of_numbers(values_K: np.ndarray) -> float:
    """The mean without NaN; 0 if there is no number."""
    numbers = values_K[~np.isnan(values_K)]
    return float(numbers.mean()) if len(numbers) else 0.0


def recall_of(scores_NK: np.ndarray, targets_NK: np.ndarray) -> float:
    """By which a cost is chosen where images have one class each."""
    return OneClass.of(scores_NK, targets_NK).mean_class_recall


def precision_of(scores_NK: np.ndarray, targets_NK: np.ndarray) -> float:
    """By which a cost is chosen where images have several classes."""
    return 100 * mean_of_numbers(SeveralClasses.of(scores_NK, targets_NK).ap_2010_K)


def _percent(values_K: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(100 * value) for value in values_K]
