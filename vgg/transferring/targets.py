"""Which images a classifier learns and is tested on, and what each is to a class.

Shapes: N images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cli.errors import UserError
from vgg.transferring.feature_file import Features, Labels


@dataclass(frozen=True)
class Rule:
    """Random splits of the images of a data set (paper, appendix B: Caltech)."""

    per_class: int
    """Images of a class to learn from; 0: the data set's own splits."""
    at_most: int
    """Images of a class to test on; 0: all the rest."""
    draws: int
    """Random splits."""


@dataclass(frozen=True)
class Learning:
    """Indices of the images to learn from and to test on."""

    train_N: np.ndarray
    test_N: np.ndarray


def targets(labels: Labels, difficult: Labels, classes: int) -> np.ndarray:
    """[N, K] int8: 1 where the image is of the class, -1 where it is not, 0 where it counts for neither."""
    targets_NK = np.full((len(labels), classes), -1, np.int8)
    for i, (own, hard) in enumerate(zip(labels, difficult, strict=True)):
        targets_NK[i, list(hard)] = 0
        targets_NK[i, list(own)] = 1
    return targets_NK


def joined(parts: Sequence[Features]) -> Features:
    """The images of several splits, in order. UserError if an image is in two."""
    keys = tuple(key for part in parts for key in part.keys)
    if len(set(keys)) < len(keys):
        raise UserError("an image is in two of the splits: name each image once")
    labels = tuple(each for part in parts for each in part.labels)
    difficult = tuple(each for part in parts for each in part.difficult)
    return Features(keys, labels, difficult, np.concatenate([part.features_NF for part in parts]))


def drawn(labels_N: np.ndarray, class_names: Sequence[str], rule: Rule, seed: int, draw: int) -> Learning:
    """A random split: of each class so many images to learn from, and the rest, or so many of it, to test on.

    A function of seed and number of the draw. UserError if a class has too few images.
    """
    train: list[int] = []
    test: list[int] = []
    for label, name in enumerate(class_names):
        images = np.flatnonzero(labels_N == label)
        if len(images) <= rule.per_class:
            raise UserError(
                f"--per-class {rule.per_class}: the class {name} has {len(images)} images, "
                "none is left to test on"
            )
        shuffled = np.random.default_rng([seed, draw, label]).permutation(images)
        train += shuffled[: rule.per_class].tolist()
        rest = shuffled[rule.per_class :]
        test += (rest[: rule.at_most] if rule.at_most else rest).tolist()
    return Learning(np.array(sorted(train)), np.array(sorted(test)))


def held_out(targets_NK: np.ndarray, share: float, seed: int) -> Learning:
    """Images to choose the cost on: this share, of images with one class of each class, at least one each."""
    images = len(targets_NK)
    one_each = bool(((targets_NK == 1).sum(1) == 1).all() and (targets_NK != 0).all())
    groups_N = targets_NK.argmax(1) if one_each else np.zeros(images, np.int64)
    test: list[int] = []
    for group in np.unique(groups_N):
        members = np.random.default_rng([seed, int(group)]).permutation(np.flatnonzero(groups_N == group))
        test += members[: max(1, round(share * len(members)))].tolist()
    test_N = np.array(sorted(test))
    return Learning(np.setdiff1d(np.arange(images), test_N), test_N)
