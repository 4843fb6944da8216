"""Decodes the entropy-coded data of a scan to quantised coefficients (ITU-T T.81, annexes F and G).

A corrupt stream is refused: what a viewer makes of it depends on the decoder.

Shapes: N blocks of the image, 64 coefficients of each in zigzag order; M blocks of the scan, in its order; I
restart intervals, and the end.
"""

import numpy as np
from numba import njit

from pipelines.jpeg.huffman import LIMIT, LONGEST, LOOKUP_BITS, OFFSET, VALUES

SLACK = 1024
"""Zero bytes behind the data, at least what the longest block can read past the end."""

LARGEST_DC_BITS, LARGEST_AC_BITS = 11, 10
"""Of a sequential JPEG of 8 bits."""


@njit(nogil=True, cache=True)
def unstuffed(file: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The entropy-coded data from `start` on without stuffed zeros and restart markers.

    Returns the bytes; where each restart interval begins in them and the last ends, in bits, int64 [I]; and the
    offset of the marker behind the data, -1 if restart markers are out of order.
    """
    size = len(file)
    found = np.zeros(size - start + SLACK, np.uint8)
    bounds, count = np.zeros((size - start) // 2 + 3, np.int64), 1
    at, to = np.uintp(start), np.uintp(0)
    one, two = np.uintp(1), np.uintp(2)
    while at + one < np.uintp(size):
        byte = file[at]
        if byte != 0xFF:
            found[to] = byte
            to += one
            at += one
            continue
        marker = file[at + one]
        if marker == 0:
            found[to] = byte
            to += one
            at += two
        elif 0xD0 <= marker <= 0xD7:
            if marker - 0xD0 != (count - 1) & 7:
                return found, bounds[:count], -1
            bounds[count] = 8 * to
            count += 1
            at += two
        else:
            break
    bounds[count] = 8 * to
    return found[: to + np.uintp(SLACK)], bounds[: count + 1], np.int64(at)


@njit(nogil=True, cache=True)
def _word(data: np.ndarray, bit: int) -> np.uint64:
    """The bits from `bit` on, of which the first 57 are valid."""
    at = np.uintp(bit >> 3)
    word = np.uint64(0)
    for place in range(np.uintp(8)):
        word |= np.uint64(data[at + place]) << np.uint64(56 - 8 * place)
    return word << np.uint64(bit & 7)


@njit(nogil=True, cache=True)
def _symbol(word: np.uint64, table: np.ndarray) -> int:
    """length << 8 | symbol of the code that the word begins with; 0 if there is none."""
    entry = table[np.uintp(word >> np.uint64(64 - LOOKUP_BITS))]
    if entry:
        return np.int64(entry)
    code = np.int64(word >> np.uint64(48))
    for length in range(LOOKUP_BITS + 1, LONGEST + 1):
        if code < table[LIMIT + length]:
            place = (code >> (LONGEST - length)) + table[OFFSET + length]
            return np.int64(length << 8 | table[VALUES + place])
    return 0


@njit(nogil=True, cache=True)
def _extended(word: np.uint64, length: int, size: int) -> int:
    """The value of `size` bits (1 to 16) behind the first `length` (F.2.2.1, EXTEND)."""
    bits = np.int64((word << np.uint64(length)) >> np.uint64(64 - size))
    return bits if bits >> (size - 1) else bits - (1 << size) + 1


@njit(nogil=True, cache=True)
def _dc(data: np.ndarray, bit: int, table: np.ndarray) -> tuple[int, int]:
    """A DC difference, and the bit behind it; -1 for an invalid one."""
    word = _word(data, bit)
    entry = _symbol(word, table)
    length, size = entry >> 8, entry & 255
    if length == 0 or size > LARGEST_DC_BITS:
        return 0, -1
    if size == 0:
        return 0, bit + length
    return _extended(word, length, size), bit + length + size


@njit(nogil=True, cache=True)
def decode_sequential(
    data: np.ndarray,
    bounds: np.ndarray,
    order_M: np.ndarray,
    slots: np.ndarray,
    interval: int,
    dc_tables: np.ndarray,
    ac_tables: np.ndarray,
    coefficients_N64: np.ndarray,
) -> bool:
    """Decode all coefficients of the scan's blocks; whether the stream was intact.

    `order_M`: indices of the blocks; `slots`: component of each block of an MCU, by its place in the scan;
    `interval`: blocks per restart interval.
    """
    predicted = np.zeros(4, np.int64)
    bit, restarts, slot = 0, 0, 0
    for place in range(len(order_M)):
        if place == restarts * interval:
            if not _begins(bit, bounds, restarts):
                return False
            bit = bounds[restarts]
            restarts += 1
            predicted[:] = 0
        component = slots[slot]
        slot = slot + 1 if slot + 1 < len(slots) else 0
        block_64 = coefficients_N64[order_M[place]]
        difference, bit = _dc(data, bit, dc_tables[component])
        if bit < 0:
            return False
        predicted[component] += difference
        if abs(predicted[component]) >= 1 << LARGEST_DC_BITS:
            return False
        block_64[0] = predicted[component]
        bit = _decode_ac(data, bit, ac_tables[component], block_64)
        if bit < 0 or bit > bounds[restarts]:
            return False
    return _begins(bit, bounds, restarts) and restarts == len(bounds) - 1


@njit(nogil=True, cache=True)
def _decode_ac(data: np.ndarray, bit: int, table: np.ndarray, block_64: np.ndarray) -> int:
    """Decode a block's 63 AC coefficients; returns the bit behind them, -1 if they are invalid."""
    k = 1
    while k < 64:
        word = _word(data, bit)
        entry = _symbol(word, table)
        length, run, size = entry >> 8, entry >> 4 & 15, entry & 15
        if length == 0 or size > LARGEST_AC_BITS:
            return -1
        bit += length + size
        if size == 0:
            if run == 0:
                return bit
            if run != 15:
                return -1
            k += 16
            continue
        k += run
        if k > 63:
            return -1
        block_64[k] = _extended(word, length, size)
        k += 1
    return bit if k == 64 else -1


@njit(nogil=True, cache=True)
def _begins(bit: int, bounds: np.ndarray, restarts: int) -> bool:
    """Whether restart interval `restarts` begins here, behind less than a byte of padding, or the data end."""
    return restarts < len(bounds) and 0 <= bounds[restarts] - bit < 8
