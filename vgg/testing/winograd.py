"""3×3 convolutions with a quarter of the multiplications, for scoring in float32 on a CPU.

Winograd's minimal filtering F(4×4, 3×3) (Lavin & Gray, arXiv:1509.09308): the output map is divided into
tiles of 4×4. The input transform turns the 6×6 inputs of a tile into 36 values; each is multiplied, over
the channels, by a matrix of transformed filters; the output transform turns the 36 products into 4×4 outputs.
The interpolation points are 0, ±√½, ±√2 and ∞: the usual 0, ±1, ±2 and ∞ have four times the largest error
(docs/decisions/winograd.md).

Shapes: B images, H and W sides of a map, C input and K output channels, T tiles of a block.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import numpy as np
import torch
from numba import njit
from torch import nn

from vgg.net.module import VGG

LANES = 32  # channels transformed at a time: a tile of them fits into the L1 cache

ROOT_HALF, ROOT_TWO = np.float32(math.sqrt(0.5)), np.float32(math.sqrt(2))  # the points; their product is 1

HALF, TWO, SUM = np.float32(0.5), np.float32(2), np.float32(2.5)  # the points' squares, and the sum of these


@njit(nogil=True, cache=True)
def _transform_input(maps_BHWC: np.ndarray, first: int, tiles_36TC: np.ndarray) -> None:
    """Transform tiles `first` to `first` + T - 1 of all images, row by row; maps are padded with zeros."""
    height, width = maps_BHWC.shape[1:3]
    down, across = (height + 3) // 4, (width + 3) // 4
    tile, half = np.empty(36 * LANES, np.float32), np.empty(36 * LANES, np.float32)
    row = 6 * LANES
    for tile_index in range(tiles_36TC.shape[1]):
        image, position = divmod(first + tile_index, down * across)
        top, left = position // across * 4 - 1, position % across * 4 - 1
        for channel in range(0, maps_BHWC.shape[3], LANES):
            for y in range(6):
                for x in range(6):
                    at = y * row + x * LANES
                    if 0 <= top + y < height and 0 <= left + x < width:
                        source = maps_BHWC[image, top + y, left + x, channel : channel + LANES]
                        for i in range(LANES):
                            tile[at + i] = source[i]
                    else:
                        tile[at : at + LANES] = 0
            for i in range(row):
                a, b, c, d = tile[i], tile[row + i], tile[2 * row + i], tile[3 * row + i]
                e, f = tile[4 * row + i], tile[5 * row + i]
                even, odd = e - TWO * c, ROOT_HALF * (d - TWO * b)
                half[i] = a - SUM * c + e
                half[row + i], half[2 * row + i] = even + odd, even - odd
                even, odd = e - HALF * c, ROOT_TWO * (d - HALF * b)
                half[3 * row + i], half[4 * row + i] = even + odd, even - odd
                half[5 * row + i] = b - SUM * d + f
            for y in range(0, 6 * row, row):
                for i in range(y, y + LANES):
                    a, b, c, d = half[i], half[i + LANES], half[i + 2 * LANES], half[i + 3 * LANES]
                    e, f = half[i + 4 * LANES], half[i + 5 * LANES]
                    even, odd = e - TWO * c, ROOT_HALF * (d - TWO * b)
                    tile[i] = a - SUM * c + e
                    tile[i + LANES], tile[i + 2 * LANES] = even + odd, even - odd
                    even, odd = e - HALF * c, ROOT_TWO * (d - HALF * b)
                    tile[i + 3 * LANES], tile[i + 4 * LANES] = even + odd, even - odd
                    tile[i + 5 * LANES] = b - SUM * d + f
            for number in range(36):
                target = tiles_36TC[number, tile_index, channel : channel + LANES]
                for i in range(LANES):
                    target[i] = tile[number * LANES + i]


@njit(nogil=True, cache=True)
def _transform_output(products_36TK: np.ndarray, first: int, bias_K: np.ndarray, maps_BHWK: np.ndarray) -> None:
    """Write tiles `first` to `first` + T - 1 of the output maps, bias added."""
    height, width = maps_BHWK.shape[1:3]
    down, across = (height + 3) // 4, (width + 3) // 4
    tile, half = np.empty(36 * LANES, np.float32), np.empty(24 * LANES, np.float32)
    row = 6 * LANES
    for tile_index in range(products_36TK.shape[1]):
        image, position = divmod(first + tile_index, down * across)
        top, left = position // across * 4, position % across * 4
        for channel in range(0, maps_BHWK.shape[3], LANES):
            for number in range(36):
                source = products_36TK[number, tile_index, channel : channel + LANES]
                for i in range(LANES):
                    tile[number * LANES + i] = source[i]
            for i in range(row):
                even_a = tile[row + i] + tile[2 * row + i]
                odd_a = ROOT_HALF * (tile[row + i] - tile[2 * row + i])
                even_b = tile[3 * row + i] + tile[4 * row + i]
                odd_b = ROOT_TWO * (tile[3 * row + i] - tile[4 * row + i])
                half[i] = tile[i] + even_a + even_b
                half[row + i] = odd_a + odd_b
                half[2 * row + i] = HALF * even_a + TWO * even_b
                half[3 * row + i] = HALF * odd_a + TWO * odd_b + tile[5 * row + i]
            for y in range(4):
                for i in range(LANES):
                    at = y * row + i
                    even_a = half[at + LANES] + half[at + 2 * LANES]
                    odd_a = ROOT_HALF * (half[at + LANES] - half[at + 2 * LANES])
                    even_b = half[at + 3 * LANES] + half[at + 4 * LANES]
                    odd_b = ROOT_TWO * (half[at + 3 * LANES] - half[at + 4 * LANES])
                    bias, to = bias_K[channel + i], 4 * y * LANES + i
                    tile[to] = half[at] + even_a + even_b + bias
                    tile[to + LANES] = odd_a + odd_b + bias
                    tile[to + 2 * LANES] = HALF * even_a + TWO * even_b + bias
                    tile[to + 3 * LANES] = HALF * odd_a + TWO * odd_b + half[at + 5 * LANES] + bias
            for y in range(min(4, height - top)):
                for x in range(min(4, width - left)):
                    target = maps_BHWK[image, top + y, left + x, channel : channel + LANES]
                    for i in range(LANES):
                        target[i] = tile[(4 * y + x) * LANES + i]


def transform_filters(weights_KC33: torch.Tensor) -> torch.Tensor:
    """The 36 matrices of transformed filters, float32 [36, C, K], computed in float64."""
    rows = [[1.0, 0.0, 0.0]]
    for square, other_square in ((0.5, 2.0), (2.0, 0.5)):  # of the points ±√square
        scale = 1 / (2 * square * (square - other_square))
        rows += [[scale, scale * sign * math.sqrt(square), scale * square] for sign in (1, -1)]
    rows.append([0.0, 0.0, 1.0])
    g_63 = torch.tensor(rows, dtype=torch.float64)
    weights_66CK = torch.einsum("iy,kcyx,jx->ijck", g_63, weights_KC33.double(), g_63)
    return weights_66CK.flatten(0, 1).float().contiguous()


class WinogradConv(nn.Module):
    """A 3×3 convolution with padding 1, in float32 on the CPU, inference only."""

    weights_36CK: torch.Tensor
    bias_K: torch.Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        """Copy the weights of `convolution`, whose numbers of channels are multiples of `LANES`."""
        super().__init__()
        assert convolution.bias is not None
        self.register_buffer("weights_36CK", transform_filters(convolution.weight.detach()))
        self.register_buffer("bias_K", convolution.bias.detach().clone())

    def forward(self, maps_BCHW: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> [B, K, H, W], channels last."""
        assert maps_BCHW.dtype == torch.float32
        maps_BHWC = maps_BCHW.permute(0, 2, 3, 1).contiguous()
        images, height, width, channels = maps_BHWC.shape
        filters = len(self.bias_K)
        output_BHWK = maps_BHWC.new_empty(images, height, width, filters)
        tiles = images * ((height + 3) // 4) * ((width + 3) // 4)
        # Enough tiles for a fast matrix product, few enough that the intermediate arrays stay cached.
        block = min(max(64, channels // 2), tiles)
        inputs_36TC = maps_BHWC.new_empty(36, block, channels)
        products_36TK = maps_BHWC.new_empty(36, block, filters)
        for first in range(0, tiles, block):
            if tiles - first < block:
                inputs_36TC, products_36TK = (
                    inputs_36TC[:, : tiles - first],
                    products_36TK[:, : tiles - first],
                )
            _transform_input(maps_BHWC.numpy(), first, inputs_36TC.numpy())
            torch.bmm(inputs_36TC, self.weights_36CK, out=products_36TK)
            _transform_output(products_36TK.numpy(), first, self.bias_K.numpy(), output_BHWK.numpy())
        return output_BHWK.permute(0, 3, 1, 2)


class WinogradVGG(nn.Module):
    """A net with Winograd convolutions. Each thread computes the whole forward pass of some images."""

    def __init__(self, net: VGG) -> None:
        """Replace, in `net` itself, the 3×3 convolutions whose numbers of channels are multiples of `LANES`."""
        super().__init__()
        for name, module in list(net.named_children()):
            if (
                isinstance(module, nn.Conv2d)
                and module.kernel_size == (3, 3)
                and module.in_channels % LANES == module.out_channels % LANES == 0
            ):
                setattr(net, name, WinogradConv(module))
        self.net = net

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Class score maps, as `VGG.forward`."""
        threads = torch.get_num_threads()
        chunks = images_BCHW.tensor_split(max(min(threads, len(images_BCHW)), 1))
        if len(chunks) == 1:
            return self._score(images_BCHW, threads)
        scores = list(_pool(threads).map(partial(self._score, threads=threads // len(chunks)), chunks))
        # torch's number of threads is thread-local, but new threads start with the number that was set last.
        torch.set_num_threads(threads)
        return torch.cat(scores)

    @torch.inference_mode()  # thread-local too
    def _score(self, images_BCHW: torch.Tensor, threads: int) -> torch.Tensor:
        """Score images with so many of torch's threads; by default each of our threads would use all."""
        torch.set_num_threads(threads)
        # One image at a time, so that each reuses the memory of the last; larger maps are allocated anew.
        maps = [self.net.features(image_1CHW) for image_1CHW in images_BCHW.split(1)]
        return self.net.classify(torch.cat(maps))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "winograd")
