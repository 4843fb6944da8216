"""Average precision by VOC's definitions: by hand, by the development kits' own loops, and scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from vgg.metrics.average_precision import average_precision_2007, average_precision_2010


def test_by_hand():
    """Ranked: right, wrong, right, wrong, wrong; recalls 1/2 and 1, precisions 1 and 2/3."""
    scores_N, positive_N = np.array([0.1, 0.9, 0.3, 0.7, 0.5]), np.array([False, True, False, False, True])
    assert average_precision_2007(scores_N, positive_N) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert average_precision_2010(scores_N, positive_N) == pytest.approx((1 + 2 / 3) / 2)


def test_a_later_better_precision_counts_for_lower_recalls():
    """Ranked: wrong, right, right."""
    scores_N, positive_N = np.array([3.0, 2.0, 1.0]), np.array([False, True, True])
    assert average_precision_2007(scores_N, positive_N) == pytest.approx(2 / 3)
    assert average_precision_2010(scores_N, positive_N) == pytest.approx(2 / 3)
    assert average_precision_score(positive_N, scores_N) < 0.6


def test_a_recall_of_exactly_three_tenths_counts():
    """3 of 10, which is less than 0.1 + 0.1 + 0.1 in fractions of two."""
    positive_N = np.array([True] * 3 + [False] * 7 + [True] * 7)
    expected = (4 * 1 + 7 * 10 / 17) / 11
    assert average_precision_2007(np.arange(17.0, 0, -1), positive_N) == pytest.approx(expected)


def development_kit_2010(scores_N, positive_N):
    """VOCevalcls.m of VOC 2010, line by line."""
    order = sorted(range(len(scores_N)), key=lambda i: -scores_N[i])
    hits, recalls, precisions = 0, [0.0], [0.0]
    for rank, i in enumerate(order, start=1):
        hits += bool(positive_N[i])
        recalls.append(hits / positive_N.sum())
        precisions.append(hits / rank)
    recalls.append(1.0)
    precisions.append(0.0)
    for i in range(len(precisions) - 2, -1, -1):
        precisions[i] = max(precisions[i], precisions[i + 1])
    steps = [i for i in range(1, len(recalls)) if recalls[i] != recalls[i - 1]]
    return sum((recalls[i] - recalls[i - 1]) * precisions[i] for i in steps)


@pytest.mark.parametrize("seed", range(20))
def test_the_development_kit_and_scikit_learn(seed):
    """scikit-learn's, which does not raise precisions, is a lower bound, and equal where none is raised."""
    rng = np.random.default_rng(seed)
    scores_N, positive_N = rng.normal(size=200), rng.random(200) < 0.2
    found = average_precision_2010(scores_N, positive_N)
    assert found == pytest.approx(development_kit_2010(scores_N, positive_N))
    assert average_precision_score(positive_N, scores_N) <= found + 1e-12
    falling_N = np.sort(positive_N)[::-1]
    scores_N = -np.arange(200.0)
    assert average_precision_2010(scores_N, falling_N) == pytest.approx(1)
    falling_N = np.array([True] * 3 + [False] * 2 + [True] + [False] * 6 + [True] + [False] * 9)
    scores_N = -np.arange(22.0)
    found = average_precision_2010(scores_N, falling_N)
    assert found == pytest.approx(average_precision_score(falling_N, scores_N))
    assert found < 1


def test_no_positive_image():
    for definition in (average_precision_2007, average_precision_2010):
        assert np.isnan(definition(np.ones(3), np.zeros(3, bool)))
