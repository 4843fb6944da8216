"""Errors, intervals and calibration against scikit-learn, SciPy and torchmetrics."""

from typing import cast

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, log_loss, recall_score, top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_calibration_error

from cli.errors import UserError
from vgg.metrics.accuracy import accuracy, ranks, tally
from vgg.metrics.interval import wilson_interval
from vgg.metrics.rows import BLOCK_ROWS, Rows


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
    assert found.majority_share == np.bincount(labels_N).max() / 700


def test_a_tie_never_counts_in_the_nets_favour():
    posteriors_NK = np.array([[0.4, 0.4, 0.2]] * 3, np.float32)
    assert ranks(posteriors_NK, np.array([0, 1, 2])).tolist() == [1, 1, 2]
    uniform = accuracy(np.full((10, 10), 0.1, np.float32), np.arange(10))
    assert (uniform.top1_wrong, uniform.top5_wrong) == (10, 10)


def test_the_order_of_the_classes_decides_nothing():
    """Probabilities in sixteenths, so that many are equal."""
    rng = np.random.default_rng(0)
    posteriors_NK = (rng.multinomial(16, np.full(7, 1 / 7), 400) / 16).astype(np.float32)
    labels_N = rng.integers(0, 7, 400)
    expected = accuracy(posteriors_NK, labels_N)
    assert 0 < expected.top5_wrong < expected.top1_wrong < 400
    for _ in range(10):
        new_place_K = rng.permutation(7)
        moved_NK = np.empty_like(posteriors_NK)
        moved_NK[:, new_place_K] = posteriors_NK
        found = accuracy(moved_NK, new_place_K[labels_N])
        assert (found.top1_wrong, found.top5_wrong) == (expected.top1_wrong, expected.top5_wrong)
        assert found.calibration_error == pytest.approx(expected.calibration_error, abs=1e-12)
        counted = tally(moved_NK, new_place_K[labels_N])
        assert 400 - counted.confusion_KK.trace() == found.top1_wrong, "the matrix says the same"


class FewRows(Rows):
    """Gives no more rows at a time than a block."""

    def __init__(self, posteriors_NK):
        super().__init__(*posteriors_NK.shape)
        self._rows = posteriors_NK

    def __getitem__(self, rows):
        assert rows.stop - rows.start <= BLOCK_ROWS
        return self._rows[rows]


def test_many_images_are_counted_block_by_block():
    rng = np.random.default_rng(0)
    images = 2 * BLOCK_ROWS + 3
    posteriors_NK, labels_N = rng.dirichlet(np.ones(8), images).astype(np.float32), rng.integers(0, 8, images)
    found = accuracy(FewRows(posteriors_NK), labels_N)
    right = posteriors_NK.argmax(1) == labels_N
    assert (found.seen, found.top1_wrong) == (images, int((~right).sum()))
    expected = multiclass_calibration_error(
        torch.from_numpy(posteriors_NK), torch.from_numpy(labels_N), num_classes=8, n_bins=15
    )
    assert found.calibration_error == pytest.approx(expected.item(), abs=1e-6)
    expected_KK = confusion_matrix(labels_N, posteriors_NK.argmax(1), labels=range(8))
    np.testing.assert_array_equal(tally(FewRows(posteriors_NK), labels_N).confusion_KK, expected_KK)


def test_the_loss_is_scikit_learns(scored):
    posteriors_NK, labels_N = scored
    exact_NK = posteriors_NK.astype(np.float64)
    expected = log_loss(labels_N, exact_NK / exact_NK.sum(1, keepdims=True), labels=range(12))
    assert accuracy(posteriors_NK, labels_N).loss == pytest.approx(expected, rel=1e-6)


def test_the_loss_of_a_probability_of_zero_is_finite():
    """Infinity is no JSON."""
    assert 80 < accuracy(np.array([[1.0, 0.0]], np.float32), np.array([1])).loss < 90


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
