"""The paper's test protocols against identities that must hold, in float64 and float32.

Shapes: B images, C = 3, H and W image sides in pixels, K classes, h and w sides of a map.
"""

import numpy as np
import pytest
import torch
from torch import nn

from vgg.net.architecture import Architecture
from vgg.net.initialise import initialise
from vgg.net.module import VGG
from vgg.recipes.schema import Input
from vgg.testing.protocols import (
    Evaluation,
    Pass,
    dense,
    derived_scales,
    grid_corners,
    multi_crop,
    with_mirrors,
)

SIDE = 64
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


@pytest.fixture
def net(dtype):
    """Random weights whose posteriors are far from uniform."""
    net = VGG(Architecture("D", 7, SIDE, 0.125))
    initialise(net, "glorot", 3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.1)
    return net.to(dtype).eval()


def images(dtype, height, width, count=2):
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return (torch.rand(count, 3, height, width, generator=generator, dtype=torch.float64) * 255 - 120).to(dtype)


def close(found, expected, dtype):
    assert 2 / expected.shape[1] < expected.max() < 0.9, "posteriors this uniform or sure hide mistakes"
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[dtype])


@torch.no_grad()
def test_dense_at_the_crops_size_is_the_crop_and_its_mirror(net, dtype):
    crops = images(dtype, SIDE, SIDE)
    expected = (net(crops).flatten(1).softmax(1) + net(crops.flip(3)).flatten(1).softmax(1)) / 2
    for average in ("scores", "posteriors"):
        close(dense(net, crops, average=average), expected, dtype)


@torch.no_grad()
@pytest.mark.parametrize("average", ["scores", "posteriors"])
def test_dense_is_the_classifier_slid_over_the_last_feature_map(net, dtype, average):
    whole = images(dtype, 101, 140)
    s = SIDE // 32
    posteriors = []
    for view in (whole, whole.flip(3)):
        maps = net.features(view)
        places = []
        for top in range(maps.shape[2] - s + 1):
            for left in range(maps.shape[3] - s + 1):
                hidden = maps[:, :, top : top + s, left : left + s].flatten(1)
                for layer in (net.fc6, net.fc7):
                    hidden = (hidden @ layer.weight.T + layer.bias).clamp(min=0)
                places.append(hidden @ net.fc8.weight.T + net.fc8.bias)
        assert len(places) == 2 * 3
        scores = torch.stack(places)
        posteriors.append(scores.mean(0).softmax(1) if average == "scores" else scores.softmax(2).mean(0))
    close(dense(net, whole, average=average), (posteriors[0] + posteriors[1]) / 2, dtype)


@torch.no_grad()
def test_the_two_averages_differ(net, dtype):
    whole = images(dtype, 101, 140)
    difference = dense(net, whole, average="scores") - dense(net, whole, average="posteriors")
    assert difference.abs().max() > 1e-4


@torch.no_grad()
def test_a_grid_of_one_crop_is_the_centre_crop(net, dtype):
    whole = images(dtype, 75, 100)
    centre = whole[:, :, 5 : 5 + SIDE, 18 : 18 + SIDE]
    expected = net(centre).flatten(1).softmax(1)
    close(multi_crop(net, whole, side=SIDE, grid=1, mirror=False), expected, dtype)


@torch.no_grad()
def test_multi_crop_is_the_mean_over_crops_one_at_a_time(net, dtype):
    whole = images(dtype, 75, 100)
    tops, lefts = [0, 3, 6, 8, 11], [0, 9, 18, 27, 36]
    single = []
    for view in (whole, whole.flip(3)):
        for top in tops:
            for left in lefts:
                # A mirrored image's crops: the mirror images of the same crops.
                left_in_view = left if view is whole else 100 - SIDE - left
                crop = view[:, :, top : top + SIDE, left_in_view : left_in_view + SIDE]
                single.append(torch.cat([net(each[None]).flatten(1).softmax(1) for each in crop]))
    expected = torch.stack(single).mean(0)
    for batch in (1, 7, 64, 1000):
        close(multi_crop(net, whole, side=SIDE, batch=batch), expected, dtype)


class Counting(nn.Module):
    """Scores both classes equally; records the shape of every crop that it is shown."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def forward(self, images_BCHW):
        self.shown += [tuple(images_BCHW.shape[1:])] * len(images_BCHW)
        return torch.zeros(len(images_BCHW), 2, 1, 1)


def test_multi_crop_at_three_scales_shows_150_crops_an_image():
    net = Counting()
    for pass_ in Evaluation("multi-crop", (256, 384, 512)).passes:
        multi_crop(net, torch.zeros(1, 3, pass_.scale, pass_.scale + 40), side=224)
    assert net.shown == [(3, 224, 224)] * 150


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 85), (256, 341), (500, 256), (71, 70)])
def test_a_grid_is_regular_and_reaches_every_edge(height, width):
    corners = grid_corners(height, width, 64, 5)
    assert len(corners) == 25
    for axis, length in enumerate((height, width)):
        places = sorted(corner[axis] for corner in corners)[::5]
        assert np.abs(places - np.linspace(0, length - 64, 5)).max() <= 0.5
        assert (places[0], places[-1]) == (0, length - 64)


def test_the_centre_of_an_odd_margin_is_that_of_single_crop_evaluation():
    assert grid_corners(75, 100, 64, 1) == [(5, 18)]


@pytest.mark.parametrize(
    ("crop", "side", "single", "several"),
    [  # paper, sections 4.1 and 4.2
        (Input(256, 256), 224, (256,), (224, 256, 288)),
        (Input(384, 384), 224, (384,), (352, 384, 416)),
        (Input(256, 512), 224, (384,), (256, 384, 512)),
        # Smaller crops: the reach shrinks with them, and no scale is smaller than the crop.
        (Input(64, 80), 64, (72,), (64, 72, 80)),
        (Input(64, 64), 64, (64,), (64, 73)),
    ],
)
def test_scales_follow_from_the_training_scale(crop, side, single, several):
    assert derived_scales(crop, side, several=False) == single
    assert derived_scales(crop, side, several=True) == several


def test_both_is_dense_and_multi_crop_at_every_scale():
    assert Evaluation("both", (256, 384)).passes == (
        Pass("dense", 256),
        Pass("dense", 384),
        Pass("multi-crop", 256),
        Pass("multi-crop", 384),
    )
    assert Evaluation("single-crop", (256,)).passes == (Pass("single-crop", 256),)


def test_mirrors_follow_the_images():
    pixels = torch.arange(12.0).reshape(2, 1, 2, 3)
    assert with_mirrors(pixels)[2:].tolist() == pixels.flip(-1).tolist()
    assert with_mirrors(pixels)[:2].tolist() == pixels.tolist()
