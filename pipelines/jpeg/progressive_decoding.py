"""Decodes the scans of a progressive JPEG (ITU-T T.81, annex G).

Shapes: N blocks of the image, 64 coefficients of each in zigzag order; M blocks of the scan, in its order.
"""

import numpy as np
from numba import njit

from pipelines.jpeg.entropy_decoding import (
    LARGEST_AC_BITS,
    LARGEST_DC_BITS,
    _begins,
    _dc,
    _extended,
    _symbol,
    _word,
)


@njit(nogil=True, cache=True)
def decode_dc(
    data: np.ndarray,
    bounds: np.ndarray,
    order_M: np.ndarray,
    slots: np.ndarray,
    interval: int,
    dc_tables: np.ndarray,
    refining: bool,
    low: int,
    coefficients_N64: np.ndarray,
) -> bool:
    """Decode a DC scan, the first or a refining one; whether the stream was intact.

    `order_M`: indices of the blocks; `slots`: component of each block of an MCU, by its place in the scan;
    `interval`: blocks per restart interval; `low`: the scan's bit position.
    """
    predicted = np.zeros(4, np.int64)
    bit, restarts = 0, 0
    for place in range(len(order_M)):
        if place == restarts * interval:
            if not _begins(bit, bounds, restarts):
                return False
            bit = bounds[restarts]
            restarts += 1
            predicted[:] = 0
        block_64 = coefficients_N64[order_M[place]]
        if refining:
            block_64[0] |= np.int64(_word(data, bit) >> np.uint64(63)) << low
            bit += 1
        else:
            component = slots[place % len(slots)]
            difference, bit = _dc(data, bit, dc_tables[component])
            if bit < 0:
                return False
            predicted[component] += difference
            if abs(predicted[component] << low) >= 1 << LARGEST_DC_BITS:
                return False
            block_64[0] = predicted[component] << low
        if bit > bounds[restarts]:
            return False
    return _begins(bit, bounds, restarts) and restarts == len(bounds) - 1


@njit(nogil=True, cache=True)
def decode_ac(
    data: np.ndarray,
    bounds: np.ndarray,
    order_M: np.ndarray,
    interval: int,
    table: np.ndarray,
    first: int,
    last: int,
    refining: bool,
    low: int,
    coefficients_N64: np.ndarray,
) -> bool:
    """Decode the AC coefficients `first` to `last` of one component; whether the stream was intact."""
    bit, restarts, end_of_band = 0, 0, 0
    for place in range(len(order_M)):
        if place == restarts * interval:
            if end_of_band or not _begins(bit, bounds, restarts):
                return False
            bit = bounds[restarts]
            restarts += 1
        block_64 = coefficients_N64[order_M[place]]
        if refining:
            bit, end_of_band = _refine(data, bit, table, first, last, low, end_of_band, block_64)
        elif end_of_band:
            end_of_band -= 1
        else:
            bit, end_of_band = _first_scan(data, bit, table, first, last, low, block_64)
        if bit < 0 or bit > bounds[restarts]:
            return False
    return end_of_band == 0 and _begins(bit, bounds, restarts) and restarts == len(bounds) - 1


@njit(nogil=True, cache=True)
def _first_scan(
    data: np.ndarray, bit: int, table: np.ndarray, first: int, last: int, low: int, block_64: np.ndarray
) -> tuple[int, int]:
    """The first scan of a band of a block: the bit behind it (-1: invalid), and blocks of zeros that follow."""
    k = first
    while k <= last:
        word = _word(data, bit)
        entry = _symbol(word, table)
        length, run, size = entry >> 8, entry >> 4 & 15, entry & 15
        if length == 0 or size > LARGEST_AC_BITS:
            return -1, 0
        if size == 0 and run < 15:
            more = np.int64((word << np.uint64(length)) >> np.uint64(64 - run)) if run else 0
            return bit + length + run, (1 << run) + more - 1
        bit += length + size
        k += run
        if size:
            value = _extended(word, length, size) << low if k <= last else 0
            if k > last or abs(value) >= 1 << LARGEST_AC_BITS:
                return -1, 0
            block_64[k] = value
        k += 1
    return (bit, 0) if k == last + 1 else (-1, 0)


@njit(nogil=True, cache=True)
def _refine(
    data: np.ndarray,
    bit: int,
    table: np.ndarray,
    first: int,
    last: int,
    low: int,
    end_of_band: int,
    block_64: np.ndarray,
) -> tuple[int, int]:
    """A refining scan of a band of a block: the bit behind it (-1: invalid), and blocks of corrections left."""
    k = first
    while k <= last and end_of_band == 0:
        word = _word(data, bit)
        entry = _symbol(word, table)
        length, run, size = entry >> 8, entry >> 4 & 15, entry & 15
        if length == 0 or size > 1:
            return -1, 0
        bit += length
        value = 0
        if size:
            value = 1 << low if (word << np.uint64(length)) >> np.uint64(63) else -1 << low
            bit += 1
        elif run < 15:
            more = np.int64((word << np.uint64(length)) >> np.uint64(64 - run)) if run else 0
            bit += run
            end_of_band = (1 << run) + more
            break
        while k <= last:  # skip `run` zeros, correcting what is not zero
            if block_64[k]:
                bit = _correct(data, bit, low, k, block_64)
            elif run == 0:
                break
            else:
                run -= 1
            k += 1
        if k > last:
            if value or run:
                return -1, 0
        elif value:
            block_64[k] = value
        k += 1
    if end_of_band:
        for rest in range(k, last + 1):
            if block_64[rest]:
                bit = _correct(data, bit, low, rest, block_64)
        end_of_band -= 1
    return bit, end_of_band


@njit(nogil=True, cache=True)
def _correct(data: np.ndarray, bit: int, low: int, k: int, block_64: np.ndarray) -> int:
    """Read the correction of a coefficient; returns the bit behind it."""
    if _word(data, bit) >> np.uint64(63):
        block_64[k] += 1 << low if block_64[k] > 0 else -1 << low
    return bit + 1
