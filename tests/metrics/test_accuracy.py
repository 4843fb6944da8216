"""Errors, intervals and calibration against scikit-learn, SciPy and torchmetrics."""

from typing import cast

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import recall_score, top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_calibration_error

from cli.errors import UserError
from vgg.metrics.accuracy import accuracy, ranks
from vgg.metrics.interval import wilson_interval


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, 12, 700).astype(np.int32)
    logits_NK = rng.normal(0, 1, (700, 12))
    logits_NK[np.arange(700), labels_N] += 1.5
    odds_NK = np.exp(logits_NK)
    return (odds_NK / odds_NK.sum(1, keepdims=True)).astype(np.float32), labels_N


def test_errors_are_scikit_learns(scored):
    posteriors_NK, labels_N = scored
    found = accuracy(posteriors_NK, labels_N)
    for wrong, k in ((found.top1_wrong, 1), (found.top5_wrong, 5)):
        right = top_k_accuracy_score(labels_N, posteriors_NK, k=k, normalize=False)
        assert wrong == 700 - right
    assert found.seen == 700
    assert found.top1_error == pytest.approx(100 * found.top1_wrong / 700)
    recall = recall_score(labels_N, posteriors_NK.argmax(1), average=None)
    np.testing.assert_allclose(cast(tuple[float, ...], found.class_accuracy_K), recall)


def test_of_equals_the_first_class_is_taken():
    posteriors_NK = np.array([[0.4, 0.4, 0.2]] * 3, np.float32)
    assert ranks(posteriors_NK, np.array([0, 1, 2])).tolist() == [0, 1, 2]


def test_a_class_without_images_has_no_accuracy():
    found = accuracy(np.array([[0.9, 0.1, 0.0]], np.float32), np.array([0]))
    assert found.class_accuracy_K == (1.0, None, None)
    assert (found.top1_wrong, found.top5_wrong) == (0, 0)


def test_no_image_is_an_error():
    with pytest.raises(UserError, match="no image"):
        accuracy(np.zeros((0, 3), np.float32), np.zeros(0, np.int32))


@pytest.mark.parametrize(("wrong", "seen"), [(130, 500), (3, 500), (0, 50), (50, 50), (1, 1), (49_999, 50_000)])
def test_the_interval_is_scipys_wilson_interval(wrong, seen):
    expected = binomtest(wrong, seen).proportion_ci(method="wilson")
    found = wilson_interval(wrong, seen)
    np.testing.assert_allclose(found, (100 * expected.low, 100 * expected.high), rtol=1e-9, atol=1e-9)
    assert 0 <= found[0] <= 100 * wrong / seen <= found[1] <= 100
    assert found[0] < found[1], "none or all wrong of a few is no certainty"


def test_calibration_error_is_torchmetrics(scored):
    posteriors_NK, labels_N = scored
    expected = multiclass_calibration_error(
        torch.from_numpy(posteriors_NK), torch.from_numpy(labels_N).long(), num_classes=12, n_bins=15
    )
    assert expected > 0.05
    assert accuracy(posteriors_NK, labels_N).calibration_error == pytest.approx(expected.item(), abs=1e-6)
