"""The paired bootstrap, against SciPy's, which draws images one by one."""

import numpy as np
import pytest
from scipy import stats

from vgg.metrics.bootstrap import paired_bootstrap


def wrong(images: int, rates: list[float], seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random((images, len(rates))) < rates).astype(float)


def test_as_scipy_finds_it():
    one_NS, other_NS = wrong(400, [0.2, 0.25], 0), wrong(400, [0.3, 0.28], 1)
    found = paired_bootstrap(one_NS, other_NS)
    data = (100 * (one_NS.mean(1) - other_NS.mean(1)),)
    theirs = stats.bootstrap(data, np.mean, n_resamples=9999, method="percentile", rng=0).confidence_interval
    assert found.mean == pytest.approx(data[0].mean())
    width = theirs.high - theirs.low
    assert found.interval == pytest.approx((theirs.low, theirs.high), abs=0.05 * width)


def test_the_same_images_wrong_are_no_difference():
    """Pairing matters: two nets that fail on the same images differ by nothing, however many these are."""
    one_NS = wrong(300, [0.4], 2)
    found = paired_bootstrap(one_NS, one_NS.copy())
    assert found.mean == 0
    assert found.interval == (0, 0)


def test_resamplings_of_all_of_imagenet_take_no_time_by_image():
    one_NS, other_NS = wrong(50_000, [0.25], 3), wrong(50_000, [0.27], 4)
    low, high = paired_bootstrap(one_NS, other_NS).interval
    assert high < 0
    # The normal interval of a difference of two independent proportions.
    half = 196 * np.sqrt((0.25 * 0.75 + 0.27 * 0.73) / 50_000)
    assert high - low == pytest.approx(2 * half, rel=0.05)
