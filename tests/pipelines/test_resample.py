"""The resize of the CPU path: PIL's BILINEAR on a box between pixels, to one level of 255."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.loading.resample import resample


def resampled(region_HWC, start, end, shape, mirror=False):
    crop_hwC = np.full((*shape, 3), 77, np.uint8)
    resample(crop_hwC, region_HWC, np.array(start, np.float32), np.array(end, np.float32), mirror)
    return crop_hwC


def wanted(region_HWC, start, end, shape):
    box = (start[1], start[0], end[1], end[0])
    return np.asarray(Image.fromarray(region_HWC).resize(shape[::-1], Image.Resampling.BILINEAR, box))


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    fractions=st.tuples(*[st.floats(0, 1, width=32)] * 4),
    shape=st.tuples(*[st.sampled_from([1, 7, 32, 64, 224])] * 2),
)
def test_pixels_are_pils(seed, size, fractions, shape):
    """Noise, the hardest picture there is; enlarged, shrunk, whole and cut anywhere."""
    region_HWC = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    lengths = [max(f * s, min(s, 0.05)) for f, s in zip(fractions[:2], size, strict=True)]
    start = [np.float32(f * (s - n)) for f, s, n in zip(fractions[2:], size, lengths, strict=True)]
    end = [np.float32(min(a + n, s)) for a, n, s in zip(start, lengths, size, strict=True)]
    ours = resampled(region_HWC, start, end, shape).astype(int)
    assert np.abs(ours - wanted(region_HWC, start, end, shape)).max() <= 1


def test_a_mirrored_crop_is_the_crop_mirrored():
    region_HWC = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    ours = resampled(region_HWC, (3.3, 4.5), (80.2, 111.7), (64, 80))
    assert np.array_equal(
        resampled(region_HWC, (3.3, 4.5), (80.2, 111.7), (64, 80), mirror=True), ours[:, ::-1]
    )
    assert not np.array_equal(ours, ours[:, ::-1])


@pytest.mark.parametrize("side", [8, 224])
def test_an_even_surface_stays_even(side):
    region_HWC = np.full((40, 50, 3), (0, 255, 128), np.uint8)
    crop_hwC = resampled(region_HWC, (0.4, 0.2), (39.9, 49.7), (side, side))
    assert (crop_hwC == (0, 255, 128)).all()
