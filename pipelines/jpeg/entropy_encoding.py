"""Encodes quantised coefficients as one sequential scan with restart markers and the shortest Huffman codes.

Shapes: N blocks of the image, 64 coefficients of each in zigzag order; M blocks of the scan, in its order; T
tokens; K restart intervals. A token is symbol << 16 | further bits.
"""

import numpy as np
from numba import njit

from pipelines.jpeg.entropy_decoding import LARGEST_DC_BITS

END_OF_BLOCK, SIXTEEN_ZEROS = 0x00, 0xF0

BITS = np.array([value.bit_length() for value in range(2**12 + 1)], np.uint8)
"""Length of a value in bits. Coefficients are smaller than 2**11, so their differences smaller than 2**12."""

DUMMY = -1
"""A block outside the image that completes an MCU: the DC coefficient of the one before, and no others."""


@njit(nogil=True, cache=True)
def tokens(
    coefficients_N64: np.ndarray, order_M: np.ndarray, slots: np.ndarray, interval: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tokens of a scan, uint32 [T]; where each block's begin and the last ends, int64 [M + 1]; and how
    often each symbol occurs, int64 [4, 257]: DC then AC of table 0, DC then AC of table 1.

    `slots`: component of each block of an MCU; the first uses table 0, all others table 1. `interval`: blocks
    in a restart interval. No tokens if two DC coefficients are too far apart for a code.
    """
    found_T, starts = np.empty(len(order_M) * 66, np.uint32), np.zeros(len(order_M) + 1, np.int64)
    frequencies, predicted = np.zeros((4, 257), np.int64), np.zeros(4, np.int64)
    words_N16 = coefficients_N64.view(np.uint64)
    empty_64, empty_16 = np.zeros(64, np.int16), np.zeros(16, np.uint64)
    to = np.uintp(0)
    for place in range(len(order_M)):
        if place % interval == 0:
            predicted[:] = 0
        component = slots[place % len(slots)]
        table = 2 * min(component, 1)
        block = order_M[place]
        value = predicted[component] if block == DUMMY else np.int64(coefficients_N64[block, 0])
        token = _token(0, value - predicted[component])
        predicted[component] = value
        if token >> 16 > LARGEST_DC_BITS:
            return found_T[:0], starts, frequencies
        frequencies[table, token >> 16] += 1
        found_T[to] = token
        to += np.uintp(1)
        if block == DUMMY:
            to = _ac_tokens(empty_64, empty_16, found_T, to, frequencies[table + 1])
        else:
            to = _ac_tokens(coefficients_N64[block], words_N16[block], found_T, to, frequencies[table + 1])
        starts[place + 1] = to
    return found_T[:to], starts, frequencies


@njit(nogil=True, cache=True)
def _ac_tokens(
    block_64: np.ndarray, words_16: np.ndarray, found_T: np.ndarray, to: np.uintp, frequencies: np.ndarray
) -> np.uintp:
    """Append the tokens of a block's AC coefficients; returns the place behind them.

    `words_16`: the same coefficients, four a word, of which most are zero.
    """
    last = 0
    for word in range(np.uintp(16)):
        if words_16[word] == 0:
            continue
        for k in range(max(word * np.uintp(4), np.uintp(1)), word * np.uintp(4) + np.uintp(4)):
            value = np.int64(block_64[k])
            if value == 0:
                continue
            run = np.int64(k) - last - 1
            last = np.int64(k)
            while run > 15:
                found_T[to] = SIXTEEN_ZEROS << 16
                frequencies[np.uintp(SIXTEEN_ZEROS)] += 1
                to += np.uintp(1)
                run -= 16
            token = _token(run, value)
            frequencies[np.uintp(token >> 16)] += 1
            found_T[to] = token
            to += np.uintp(1)
    if last < 63:
        found_T[to] = END_OF_BLOCK << 16
        frequencies[np.uintp(END_OF_BLOCK)] += 1
        to += np.uintp(1)
    return to


@njit(nogil=True, cache=True)
def _token(run: int, value: int) -> int:
    """The token of a value after a run of zeros."""
    size = np.int64(BITS[np.uintp(abs(value))])
    bits = value if value >= 0 else value + (1 << size) - 1
    return (run << 4 | size) << 16 | bits


@njit(nogil=True, cache=True)
def encode(
    tokens_T: np.ndarray, starts: np.ndarray, slots: np.ndarray, interval: int, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The scan's bytes, ending with the marker EOI, and the length of each restart interval, int64 [K].

    A length includes the marker that ends the interval. `codes`: four of `encoding_table`, uint32 [4 × 256].
    """
    blocks = len(starts) - 1
    lengths = np.zeros(-(-blocks // interval), np.int64)
    out = np.empty(8 * len(tokens_T) + 4 * len(lengths) + 16, np.uint8)
    to, before, segment = np.uintp(0), np.uintp(0), 0
    word, filled = np.uint64(0), np.uint64(0)
    for place in range(blocks):
        table = np.uintp(
            512 * min(slots[place % len(slots)], 1)
        )  # of the DC coefficient, the next of all others
        for at in range(np.uintp(starts[place]), np.uintp(starts[place + 1])):
            token = tokens_T[at]
            size = np.uint64(token >> np.uint32(16) & np.uint32(15))
            code = codes[table + np.uintp(token >> np.uint32(16))]
            length = np.uint64(code >> np.uint32(16)) + size
            bits = np.uint64(code & np.uint32(0xFFFF)) << size | np.uint64(token & np.uint32(0xFFFF))
            word = word << length | bits
            filled += length
            if filled >= np.uint64(32):
                filled -= np.uint64(32)
                to = _put_word(out, to, np.uint32(word >> filled))
            table |= np.uintp(256)  # of the AC coefficients
        if (place + 1) % interval == 0 or place + 1 == blocks:
            free = (np.uint64(8) - filled) & np.uint64(7)
            word = word << free | ((np.uint64(1) << free) - np.uint64(1))
            filled += free
            while filled:
                filled -= np.uint64(8)
                to = _put(out, to, np.uint8(word >> filled & np.uint64(255)))
            out[to] = 0xFF
            out[to + np.uintp(1)] = 0xD0 + segment % 8 if place + 1 < blocks else 0xD9
            to += np.uintp(2)
            lengths[segment] = to - before
            before = to
            segment += 1
    return out[:to], lengths


@njit(nogil=True, cache=True)
def _put_word(out: np.ndarray, to: np.uintp, word: np.uint32) -> np.uintp:
    """Append four bytes, the highest first; returns the place behind them."""
    inverted = ~word
    if (inverted - np.uint32(0x01010101)) & word & np.uint32(0x80808080):  # one of them may be 0xFF
        for shift in (24, 16, 8, 0):
            to = _put(out, to, np.uint8(word >> np.uint32(shift) & np.uint32(255)))
        return to
    for place in range(np.uintp(4)):
        out[to + place] = word >> (np.uint32(24) - np.uint32(8) * np.uint32(place))
    return to + np.uintp(4)


@njit(nogil=True, cache=True)
def _put(out: np.ndarray, to: np.uintp, byte: np.uint8) -> np.uintp:
    """Append a byte, with a stuffed zero behind 0xFF; returns the place behind it."""
    out[to] = byte
    to += np.uintp(1)
    if byte == 0xFF:
        out[to] = 0
        to += np.uintp(1)
    return to
