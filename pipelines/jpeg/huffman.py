"""Huffman codes of JPEG: tables to decode with, and the shortest code for given frequencies.

Shapes: L = 17 code lengths 0 to 16, S = 257 symbols.
"""

import numpy as np
from numba import njit

LOOKUP_BITS = 10
"""Codes up to this length are decoded by one look-up."""

LIMIT, OFFSET, VALUES = 1 << LOOKUP_BITS, (1 << LOOKUP_BITS) + 17, (1 << LOOKUP_BITS) + 34
TABLE = VALUES + 256
"""A decoding table, int32: length << 8 | symbol of each short code, 0 for longer ones; for each length the end
of its codes, left-aligned to 16 bits, and what leads from a code to its place in the values; the values."""

LONGEST = 16


@njit(nogil=True, cache=True)
def decoding_table(counts_L: np.ndarray, values: np.ndarray) -> np.ndarray | None:
    """The table of a DHT segment: 16 counts of codes by length, and their symbols. None if it is no code."""
    table = np.zeros(TABLE, np.int32)
    code, place = 0, 0
    for length in range(1, LONGEST + 1):
        table[OFFSET + length] = place - code
        for _ in range(counts_L[length - 1]):
            if code >= 1 << length:
                return None
            table[VALUES + place] = values[place]
            if length <= LOOKUP_BITS:
                first = code << (LOOKUP_BITS - length)
                table[first : first + (1 << (LOOKUP_BITS - length))] = length << 8 | values[place]
            code += 1
            place += 1
        table[LIMIT + length] = code << (LONGEST - length)
        code <<= 1
    return table


@njit(nogil=True, cache=True)
def optimal_code(frequencies_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shortest code of at most 16 bits (T.81, K.2): counts by length, int64 [17], and symbols in order.

    The last frequency must be 1: it reserves the code of all ones, which no symbol may have.
    """
    frequencies_S = frequencies_S.copy()
    sizes_S, others_S = np.zeros(257, np.int64), np.full(257, -1, np.int64)
    while True:
        first, second = _two_rarest(frequencies_S)
        if second < 0:
            break
        frequencies_S[first] += frequencies_S[second]
        frequencies_S[second] = 0
        while True:  # one bit more for every symbol of both chains
            sizes_S[first] += 1
            if others_S[first] < 0:
                break
            first = others_S[first]
        others_S[first] = second
        while second >= 0:
            sizes_S[second] += 1
            second = others_S[second]
    counts = np.zeros(258, np.int64)
    for size in sizes_S:
        counts[size] += size > 0
    for length in range(257, LONGEST, -1):  # shorten codes that are too long
        while counts[length] > 0:
            shorter = length - 2
            while counts[shorter] == 0:
                shorter -= 1
            counts[length] -= 2
            counts[length - 1] += 1
            counts[shorter + 1] += 2
            counts[shorter] -= 1
    longest = LONGEST
    while counts[longest] == 0:
        longest -= 1
    counts[longest] -= 1  # the reserved one
    symbols = np.argsort(sizes_S[:256] * 256 + np.arange(256))
    return counts[:17], symbols[(sizes_S[:256] == 0).sum() :].astype(np.uint8)


@njit(nogil=True, cache=True)
def _two_rarest(frequencies_S: np.ndarray) -> tuple[int, int]:
    """The symbols of least frequency, the later of equal ones; -1 where there is none."""
    first, second = -1, -1
    for symbol in range(257):
        frequency = frequencies_S[symbol]
        if frequency == 0:
            continue
        if first < 0 or frequency <= frequencies_S[first]:
            first, second = symbol, first
        elif second < 0 or frequency <= frequencies_S[second]:
            second = symbol
    return first, second


@njit(nogil=True, cache=True)
def encoding_table(counts: np.ndarray, symbols: np.ndarray) -> np.ndarray:
    """length << 16 | code of each symbol, uint32 [256]; 0 for symbols without a code."""
    table = np.zeros(256, np.uint32)
    code, place = 0, 0
    for length in range(1, LONGEST + 1):
        for _ in range(counts[length]):
            table[symbols[place]] = length << 16 | code
            code += 1
            place += 1
        code <<= 1
    return table
