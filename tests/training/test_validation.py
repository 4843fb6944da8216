"""Validation scores against NumPy, and what people are told of them."""

import numpy as np
import pytest
import torch

from pipelines.loading.batch import Batch
from vgg.net.precision import MixedPrecision
from vgg.training.validation import describe, validate

CPU = torch.device("cpu")
NAMES = [f"name {k}" for k in range(7)]


class Scores(torch.nn.Module):
    """Answers the class scores that are written in the first pixels of an image."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def forward(self, images_BCHW):
        return images_BCHW[:, 0, 0, : self.classes, None, None]


def scored(scores_NK, labels_N):
    """Validate on two batches of unequal size."""
    scores_NK = np.asarray(scores_NK, np.uint8)
    images_NHWC = np.repeat(scores_NK[:, None, :, None], 3, axis=3)
    batches = [
        Batch(
            torch.from_numpy(images_NHWC[rows]),
            torch.zeros(len(images_NHWC[rows]), 3),
            torch.tensor(labels_N[rows]),
            np.arange(len(labels_N))[rows],
        )
        for rows in (slice(0, 3), slice(3, None))
    ]
    classes = scores_NK.shape[1]
    precision = MixedPrecision(torch.float32, CPU)
    return validate(Scores(classes), batches, classes=classes, device=CPU, precision=precision)


@pytest.mark.parametrize("classes", [2, 5, 6, 7])
def test_shares_are_those_of_a_direct_count(classes):
    rng = np.random.default_rng(classes)
    scores_NK = np.stack([rng.permutation(classes) for _ in range(11)])
    labels_N = rng.integers(0, classes, 11)
    found = scored(scores_NK, labels_N).summary()
    better_N = (scores_NK > scores_NK[range(11), labels_N][:, None]).sum(1)
    assert found["seen"] == 11
    assert found["top1"] == pytest.approx((better_N == 0).mean())
    assert found["majority"] == pytest.approx(np.bincount(labels_N).max() / 11)
    assert found["only_class"] is None
    # Of five classes or fewer, the true one is always among the five best: nothing is said.
    assert found["top5"] == (pytest.approx((better_N < 5).mean()) if classes > 5 else None)


def test_one_class_that_takes_all_is_told_beside_its_share():
    """What a net that learnt nothing reaches: 4 of 6."""
    found = scored([[0, 9, 1]] * 6, [1, 0, 1, 1, 2, 1]).summary()
    assert found["only_class"] == 1
    line = describe(found, NAMES)
    assert "top-1 66.67% (largest class alone 66.67%)" in line
    assert "warning: every image was taken for name 1" in line
    assert "top-5" not in line


def test_a_right_answer_of_one_class_alone_is_a_warning_too():
    """All images are of that class: the accuracy of 100 % is the share of the largest class."""
    assert "taken for name 0" in describe(scored([[9, 0]] * 4, [0] * 4).summary(), NAMES)


def test_a_validation_of_an_earlier_version_is_still_told():
    line = describe({"top1": 0.5, "top5": 0.75, "loss": 1.25, "seen": 8}, NAMES)
    assert line == "top-1 50.00%, top-5 75.00%, loss 1.2500 on 8 images"


def test_the_worst_mistakes_are_those_with_the_highest_loss():
    """Image 3 is right; of the others the true class has the lowest score in image 1."""
    scores_NK = [[9, 5, 0], [9, 0, 0], [4, 5, 0], [0, 9, 0]]
    assert scored(scores_NK, [1, 2, 0, 1]).worst == (1, 0, 2)
    assert scored([[9, 0]] * 4, [0] * 4).worst == ()
