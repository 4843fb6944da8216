"""3×3 convolutions with a quarter of the products, for scoring in float32 on a CPU.

Winograd's minimal filtering F(4×4, 3×3) (Lavin & Gray, arXiv:1509.09308): the map is cut into tiles of 4×4
places, each is spread, with a border of one, into 6×6 numbers, a matrix product over the channels is taken for
each of the 36, and the results are gathered into 4×4 places again. Points 0, ±√½, ±√2 and ∞, not the usual 0,
±1, ±2, ∞: the largest error is a quarter of theirs (docs/decisions/winograd.md).

Shapes: B images, H and W sides of a map, C channels read, K channels put out, T tiles of a block.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import numpy as np
import torch
from numba import njit
from torch import nn

from vgg.net.module import VGG

LANES = 32  # channels that one turn takes: what it works on stays in the first cache


ROOT_HALF, ROOT_TWO = np.float32(math.sqrt(0.5)), np.float32(math.sqrt(2))  # the points; their product is 1


HALF, TWO, SUM = np.float32(0.5), np.float32(2), np.float32(2.5)  # their squares


@njit(nogil=True, cache=True)
def _spread(maps_BHWC: np.ndarray, first: int, tiles_36TC: np.ndarray) -> None:
    """Fill `tiles_36TC` with tiles `first` and on of all images, row by row; outside the map lie zeros."""
    height, width = maps_BHWC.shape[1:3]
    down, across = (height + 3) // 4, (width + 3) // 4
    tile, half = np.empty(36 * LANES, np.float32), np.empty(36 * LANES, np.float32)
    row = 6 * LANES
    for place in range(tiles_36TC.shape[1]):
        image, within = divmod(first + place, down * across)
        top, left = within // across * 4 - 1, within % across * 4 - 1
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
                target = tiles_36TC[number, place, channel : channel + LANES]
                for i in range(LANES):
                    target[i] = tile[number * LANES + i]


@njit(nogil=True, cache=True)
def _gather(products_36TK: np.ndarray, first: int, bias_K: np.ndarray, maps_BHWK: np.ndarray) -> None:
    """Fill tiles `first` and on of the maps with what the products say of their 4×4 places, plus the bias."""
    height, width = maps_BHWK.shape[1:3]
    down, across = (height + 3) // 4, (width + 3) // 4
    tile, half = np.empty(36 * LANES, np.float32), np.empty(24 * LANES, np.float32)
    row = 6 * LANES
    for place in range(products_36TK.shape[1]):
        image, within = divmod(first + place, down * across)
        top, left = within // across * 4, within % across * 4
        for channel in range(0, maps_BHWK.shape[3], LANES):
            for number in range(36):
                source = products_36TK[number, place, channel : channel + LANES]
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


def spread_weights(weights_KC33: torch.Tensor) -> torch.Tensor:
    """The 36 matrices of a filter bank, float32 [36, C, K], worked out in float64."""
    a2, b2 = 0.5, 2.0
    rows = [[1.0, 0.0, 0.0]]
    for own, other in ((a2, b2), (b2, a2)):
        scale = 1 / (2 * own * (own - other))
        rows += [[scale, scale * sign * math.sqrt(own), scale * own] for sign in (1, -1)]
    rows.append([0.0, 0.0, 1.0])
    g_63 = torch.tensor(rows, dtype=torch.float64)
    weights_66CK = torch.einsum("iy,kcyx,jx->ijck", g_63, weights_KC33.double(), g_63)
    return weights_66CK.flatten(0, 1).float().contiguous()


class WinogradConv(nn.Module):
    """A 3×3 convolution with padding 1, in float32 on the CPU, without gradient."""

    weights_36CK: torch.Tensor
    bias_K: torch.Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        """Take the weights of `convolution`, whose channels are multiples of `LANES`."""
        super().__init__()
        assert convolution.bias is not None
        self.register_buffer("weights_36CK", spread_weights(convolution.weight.detach()))
        self.register_buffer("bias_K", convolution.bias.detach().clone())

    def forward(self, maps_BCHW: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> [B, K, H, W], in channels-last order."""
        assert maps_BCHW.dtype == torch.float32
        maps_BHWC = maps_BCHW.permute(0, 2, 3, 1).contiguous()
        images, height, width, channels = maps_BHWC.shape
        filters = len(self.bias_K)
        found_BHWK = maps_BHWC.new_empty(images, height, width, filters)
        tiles = images * ((height + 3) // 4) * ((width + 3) // 4)
        # Many enough that a matrix product is fast, few enough that what passes between the steps stays cached.
        block = min(max(64, channels // 2), tiles)
        spread_36TC = maps_BHWC.new_empty(36, block, channels)
        products_36TK = maps_BHWC.new_empty(36, block, filters)
        for first in range(0, tiles, block):
            if tiles - first < block:
                spread_36TC, products_36TK = spread_36TC[:, : tiles - first], products_36TK[:, : tiles - first]
            _spread(maps_BHWC.numpy(), first, spread_36TC.numpy())
            torch.bmm(spread_36TC, self.weights_36CK, out=products_36TK)
            _gather(products_36TK.numpy(), first, self.bias_K.numpy(), found_BHWK.numpy())
        return found_BHWK.permute(0, 3, 1, 2)


class WinogradVGG(nn.Module):
    """A net that scores by Winograd's convolutions, each thread some images of the batch from end to end."""

    def __init__(self, net: VGG) -> None:
        """Take the net over: its convolutions are replaced where Winograd's can stand for them."""
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
        parts = images_BCHW.tensor_split(max(min(threads, len(images_BCHW)), 1))
        if len(parts) == 1:
            return self._score(images_BCHW, threads)
        found = list(_pool(threads).map(partial(self._score, threads=threads // len(parts)), parts))
        torch.set_num_threads(
            threads
        )  # the number is a thread's own, but the last one set holds for new threads
        return torch.cat(found)

    @torch.inference_mode()  # a thread's own too
    def _score(self, images_BCHW: torch.Tensor, threads: int) -> torch.Tensor:
        """Score some images on so many of torch's threads, which would otherwise be all in each of ours."""
        torch.set_num_threads(threads)
        # One at a time, maps stay in memory that the last one left; larger ones are asked of the system anew.
        maps = [self.net.features(image_1CHW) for image_1CHW in images_BCHW.split(1)]
        return self.net.classify(torch.cat(maps))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "winograd")
