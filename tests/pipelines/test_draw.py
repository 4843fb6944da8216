"""Draws: reproducible one by one, and distributed as the paper says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.errors import UserError
from pipelines.loading.draw import Augment, centre, colour_axes, draw, region, rescaled
from pipelines.loading.philox import philox

AUGMENT = Augment(side=224, min_scale=256, max_scale=512)
COVARIANCE = np.array([[5000.0, 4500, 4000], [4500, 4800, 4400], [4000, 4400, 5200]])


def many(count, augment=AUGMENT, seed=3, epoch=2, height=375, width=500):
    sizes = np.full(count, height), np.full(count, width)
    images = np.arange(count)
    return draw(seed, np.full(count, epoch), images, *sizes, augment, colour_axes(COVARIANCE))


@given(
    key=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    counter=st.lists(st.integers(0, 2**64 - 1), min_size=4, max_size=4),
)
def test_philox_is_numpys(key, counter):
    """NumPy counts up before it draws, carrying over all four words."""
    number = sum(word << (64 * i) for i, word in enumerate(counter))
    before = (number - 1) % 2**256
    words = [(before >> (64 * i)) % 2**64 for i in range(4)]
    wanted = np.random.Philox(key=np.array(key, np.uint64), counter=np.array(words, np.uint64)).random_raw(4)
    assert (philox(key, np.array([counter], np.uint64))[0] == wanted).all()


@given(
    height=st.integers(1, 4000),
    width=st.integers(1, 4000),
    side=st.sampled_from([32, 64, 224]),
    extra=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    seed=st.integers(0, 2**63 - 1),
)
def test_the_crop_lies_in_the_rescaled_image(height, width, side, extra, seed):
    augment = Augment(side, side + min(extra), side + max(extra))
    d = many(20, augment, seed, height=height, width=width)
    shorter = np.minimum(d.scaled_height_B, d.scaled_width_B)
    assert ((augment.min_scale <= shorter) & (shorter <= augment.max_scale)).all()
    assert (d.top_B >= 0).all()
    assert (d.left_B >= 0).all()
    assert (d.top_B + side <= d.scaled_height_B).all()
    assert (d.left_B + side <= d.scaled_width_B).all()


@given(
    height=st.integers(1, 40_000),
    width=st.integers(1, 40_000),
    side=st.sampled_from([32, 224]),
    extra=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_region_holds_all_that_the_filter_reaches(height, width, side, extra, seed):
    """No pixel that the whole image would have given a weight is missing, and little else is decoded."""
    augment = Augment(side, side + min(extra), side + max(extra))
    sizes = np.array([[height, width]])
    heights, widths = sizes[:, 0], sizes[:, 1]
    one = np.array([0])
    draws = draw(seed, one, one, heights, widths, augment, np.zeros((3, 3)))
    anchor, shape, start, end = (each[0].astype(np.float64) for each in region(draws, heights, widths, side))
    scaled = np.array([draws.scaled_height_B[0], draws.scaled_width_B[0]])
    corner = np.array([draws.top_B[0], draws.left_B[0]])
    assert (anchor == np.floor(anchor)).all()
    assert (shape == np.floor(shape)).all()
    assert (anchor >= 0).all()
    assert (shape >= 1).all()
    assert (anchor + shape <= sizes[0]).all()

    ratio = sizes[0] / scaled
    reach = np.maximum(ratio, 1)
    for place in (0, side - 1):
        centre_of_pixel = (corner + place + 0.5) * ratio
        first = np.maximum(np.floor(centre_of_pixel - reach + 0.5), 0)
        last = np.minimum(np.floor(centre_of_pixel + reach + 0.5), sizes[0])
        assert (anchor <= first).all()
        assert (last <= anchor + shape).all()
    assert (np.abs(anchor + start - corner * ratio) < 1e-3 * ratio).all(), "float32 moves the crop"
    assert (np.abs(end - start - side * ratio) < 1e-3 * ratio).all()
    assert (shape <= side * ratio + 2 * (reach + 3)).all()


def test_an_image_is_drawn_alike_in_any_company():
    whole = many(100)
    images = np.array([70, 3, 99, 3])
    sizes = np.full(4, 375), np.full(4, 500)
    part = draw(3, np.array([2, 2, 2, 1]), images, *sizes, AUGMENT, colour_axes(COVARIANCE))
    for name in ("scaled_height_B", "top_B", "left_B", "mirror_B", "shift_BC"):
        assert (getattr(part, name)[:3] == getattr(whole, name)[[70, 3, 99]]).all()
    assert (part.shift_BC[3] != part.shift_BC[1]).all(), "another epoch, another draw"
    assert (many(100, seed=4).shift_BC != whole.shift_BC).all()


def test_distributions():
    d = many(100_000)
    scales = np.bincount(d.scaled_height_B, minlength=513)[256:]
    assert len(scales) == 257
    assert scales.min() > 0, "both ends and all between are drawn"
    assert abs(scales - 100_000 / 257).max() < 6 * (100_000 / 257) ** 0.5
    assert d.mirror_B.mean() == pytest.approx(0.5, abs=0.01)
    place = d.left_B / (d.scaled_width_B - 224)
    assert place.mean() == pytest.approx(0.5, abs=0.01)
    assert np.corrcoef(d.top_B / d.scaled_height_B, place)[0, 1] == pytest.approx(0, abs=0.02)


def test_colour_shift_has_the_covariance_of_alexnets():
    """Sum of alpha_i lambda_i p_i with alpha ~ N(0, 0.1), lambda of pixels in [0, 1], back in 0 to 255."""
    shift = many(200_000).shift_BC.astype(np.float64)
    values, vectors = np.linalg.eigh(COVARIANCE / 255**2)
    wanted = 255**2 * 0.1**2 * vectors @ np.diag(values**2) @ vectors.T
    assert np.cov(shift.T) == pytest.approx(wanted, rel=0.03)
    assert shift.mean(0) == pytest.approx(np.zeros(3), abs=0.05)


def test_what_is_turned_off_does_nothing():
    d = many(1000, Augment(64, 64, 64, mirror=False, colour_std=0.0), height=64, width=64)
    assert not d.mirror_B.any()
    assert (d.shift_BC == 0).all()
    assert (d.top_B == 0).all()
    assert (d.left_B == 0).all()


@pytest.mark.parametrize(
    ("size", "scale", "wanted"),
    [
        ((375, 500), 256, (256, 341)),  # 341.33
        ((500, 375), 256, (341, 256)),
        ((300, 451), 200, (200, 301)),  # 300.67
        ((2, 3), 1, (1, 2)),  # 1.5, halves up
        ((64, 64), 64, (64, 64)),
    ],
)
def test_rescaled_sizes(size, scale, wanted):
    got = rescaled(np.array([size[0]]), np.array([size[1]]), np.array([scale]))
    assert (got[0][0], got[1][0]) == wanted


def test_the_evaluation_crop_is_the_centre():
    d = centre(np.array([375, 600]), np.array([500, 400]), 224, 256)
    assert list(zip(d.top_B, d.left_B, strict=True)) == [(16, 58), (80, 16)]
    assert not d.mirror_B.any()
    with pytest.raises(UserError, match=r"--input\.test-scale 200"):
        centre(np.array([375]), np.array([500]), 224, 200)


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(UserError, match=r"--input\.min-scale 200"):
        Augment(side=224, min_scale=200, max_scale=300)
