"""Winograd's convolutions beside torch's in float64, and the net that scores with them beside the net itself.

Shapes: B images, C channels, H and W sides in pixels.
"""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vgg.net.architecture import Architecture
from vgg.net.initialise import initialise
from vgg.net.module import VGG
from vgg.testing.winograd import WinogradConv, WinogradVGG


@pytest.mark.parametrize("channels", [(32, 32), (64, 32), (32, 96)])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 7), (16, 9), (30, 45)])
def test_nearly_as_exact_as_torchs(channels, size):
    """Beside float64 the error is a few times torch's own; tiles reach over every edge."""
    torch.manual_seed(0)
    inputs, outputs = channels
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    assert convolution.bias is not None
    maps_BCHW = torch.randn(3, channels[0], *size).relu()
    exact = F.conv2d(maps_BCHW.double(), convolution.weight.double(), convolution.bias.double(), padding=1)
    with torch.inference_mode():
        found, theirs = WinogradConv(convolution)(maps_BCHW), convolution(maps_BCHW)
    assert found.shape == exact.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    error, torchs = (found - exact).abs(), (theirs - exact).abs()
    assert error.max() < 4e-6 * exact.abs().max()
    assert error.mean() < 8 * torchs.mean()


@pytest.fixture(scope="module")
def net() -> VGG:
    """Configuration B at half width, so that every block but the first convolution is replaced."""
    net = VGG(Architecture("B", 10, 64, width=0.5))
    initialise(net, "glorot", 0)
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.uniform_(parameter, -0.1, 0.1)
    return net.eval()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shape", [(5, 64, 64), (2, 97, 130)])
def test_scores_are_the_nets(net, threads, shape):
    """Crops and score maps of larger images, however many threads share the batch."""
    images_BCHW = 60 * torch.randn(shape[0], 3, *shape[1:])
    minimal = WinogradVGG(copy.deepcopy(net))
    assert sum(isinstance(module, WinogradConv) for module in minimal.modules()) == 9
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = minimal(images_BCHW)
        assert torch.get_num_threads() == threads
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == threads
    finally:
        torch.set_num_threads(before)
    with torch.inference_mode():
        expected = copy.deepcopy(net).double()(images_BCHW.double())
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_channels_that_do_not_fit_are_left_to_torch():
    """Widths of 16, 32, 64 channels and more: what the first block reads or puts out is no multiple of 32."""
    net = VGG(Architecture("A", 10, 32, width=0.25))
    initialise(net, "glorot", 0)
    replaced = {
        name for name, module in WinogradVGG(net).net.named_children() if isinstance(module, WinogradConv)
    }
    assert replaced == {name for name, _ in net.named_children() if name.startswith("conv")} - {
        "conv1_1",
        "conv2_1",
    }


def test_an_image_smaller_than_the_crop_is_refused(net):
    with pytest.raises(ValueError, match=r"63x70 pixels is smaller than the net's crop, 64"):
        WinogradVGG(copy.deepcopy(net))(torch.zeros(2, 3, 63, 70))
