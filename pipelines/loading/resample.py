"""Crops a decoded region and rescales the crop, on the CPU.

A triangle filter, widened when the image shrinks, as PIL's BILINEAR. DALI's takes three times as long, OpenCV's
does not widen the filter, and torch's cannot start between two pixels (docs/decisions/resample.md). Compiled by
Numba without fast-math: no sum is reordered and no product fused, so every processor gives the same bytes.

Shapes: H, W of the region, h, w of the crop, S either of them, T taps of the filter, all in pixels; C = 3.
"""

import math

import numpy as np
from numba import njit

TAPS = 4  # taps of one iteration of the inner loop; weights are padded with zeros to a multiple


@njit(nogil=True, cache=True)
def _filter(start: float, end: float, size: int, side: int) -> tuple[np.ndarray, np.ndarray, int]:
    """First tap [S] and weights [S, T] of each output pixel along an axis of `size` pixels; most taps used."""
    ratio = (end - start) / side
    reach = max(ratio, 1.0)
    taps = (math.ceil(2 * reach) + TAPS - 1) // TAPS * TAPS
    first_S, weights_ST = np.empty(side, np.uintp), np.zeros((side, taps), np.float32)
    most = 0
    for place in range(side):
        centre = start + (place + 0.5) * ratio
        first = max(int(centre - reach + 0.5), 0)
        last = min(int(centre + reach + 0.5), size, first + taps)
        total = 0.0
        for tap in range(last - first):
            total += max(1 - abs((first + tap + 0.5 - centre) / reach), 0.0)
        for tap in range(last - first):
            weight = max(1 - abs((first + tap + 0.5 - centre) / reach), 0.0)
            weights_ST[place, tap] = weight / total
        first_S[place], most = first, max(most, last - first)
    return first_S, weights_ST, most


@njit(nogil=True, cache=True)
def _across(
    row: np.ndarray, lefts_S: np.ndarray, across_ST: np.ndarray, used: int, mirror: bool, line: np.ndarray
) -> None:
    """Filter one row of the region into one of the crop; no more than `used` taps have a weight."""
    # Unsigned indices need no test for negative ones; without that test the loops are vectorised.
    side, three, taps = np.uintp(len(lefts_S)), np.uintp(3), np.uintp(across_ST.shape[1])
    for x in range(side):
        a = lefts_S[x] * three
        w0, w1 = across_ST[x, np.uintp(0)], across_ST[x, np.uintp(1)]
        to = (side - np.uintp(1) - x if mirror else x) * three
        if used <= 2:
            for c in range(three):
                line[to + c] = w0 * row[a + c] + w1 * row[a + c + three]
            continue
        w2, w3 = across_ST[x, np.uintp(2)], across_ST[x, np.uintp(3)]
        if used == 3:
            for c in range(three):
                line[to + c] = (w0 * row[a + c] + w1 * row[a + c + three]) + w2 * row[a + c + np.uintp(6)]
            continue
        for c in range(three):
            at = a + c
            line[to + c] = (w0 * row[at] + w1 * row[at + three]) + (
                w2 * row[at + np.uintp(6)] + w3 * row[at + np.uintp(9)]
            )
        for tap in range(np.uintp(TAPS), taps):
            a_tap, w = a + tap * three, across_ST[x, tap]
            for c in range(three):
                line[to + c] += w * row[a_tap + c]


@njit(nogil=True, cache=True)
def resample(
    crop_hwC: np.ndarray, region_HWC: np.ndarray, start_2: np.ndarray, end_2: np.ndarray, mirror: bool
) -> None:
    """Rescale the region (uint8) between `start_2` and `end_2` into `crop_hwC` (uint8, contiguous).

    Both are (y, x) in pixels of the region and may fall between pixels; `mirror` swaps left and right.
    """
    height, width, side = region_HWC.shape[0], region_HWC.shape[1], np.uintp(crop_hwC.shape[1])
    firsts_S, down_ST, _ = _filter(start_2[0], end_2[0], height, crop_hwC.shape[0])
    lefts_S, across_ST, used = _filter(start_2[1], end_2[1], width, crop_hwC.shape[1])
    values = np.uintp(3 * width)
    rows = region_HWC.reshape(height, 3 * width)
    row = np.zeros(3 * width + 3 * across_ST.shape[1], np.float32)  # taps with zero weight may lie past its end
    line = np.empty(3 * crop_hwC.shape[1], np.float32)
    for y in range(np.uintp(crop_hwC.shape[0])):
        weight = down_ST[y, 0]
        source = rows[firsts_S[y]]
        for x in range(values):
            row[x] = weight * np.float32(source[x])
        for tap in range(1, down_ST.shape[1]):
            weight = down_ST[y, tap]
            if weight == 0:
                continue
            source = rows[firsts_S[y] + np.uintp(tap)]
            for x in range(values):
                row[x] += weight * np.float32(source[x])
        _across(row, lefts_S, across_ST, used, mirror, line)
        target = crop_hwC[y].reshape(3 * crop_hwC.shape[1])
        for x in range(np.uintp(3) * side):
            target[x] = np.uint8(np.int32(line[x] + np.float32(0.5)))
