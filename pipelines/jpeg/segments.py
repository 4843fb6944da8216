"""A small JPEG of a region, put together from the restart intervals of a file that `transcoding` wrote.

Its pixels inside the region are those of the whole file: where chroma is subsampled, decoders interpolate it
from its neighbours, which are included.
"""

import numpy as np
from numba import njit

APP0, APP14, COM, DHT, DRI, SOS, EOI = 0xE0, 0xEE, 0xFE, 0xC4, 0xDD, 0xDA, 0xD9


@njit(nogil=True, cache=True)
def assemble(
    file: np.ndarray, lengths: np.ndarray, top: int, left: int, bottom: int, right: int, out: np.ndarray
) -> tuple[int, int, int]:
    """Write a JPEG that shows at least the region to `out`.

    `file`: uint8; `lengths`: of its restart intervals in bytes, uint16; the region in pixels of the file;
    `out`: uint8, at least as long as the file. Returns its size in bytes, and its top and left in the file's
    pixels; a size of 0 stands for the file itself, if the region takes all of it or the lengths are not those
    of the file.
    """
    scan, to, frame, every = _copy_header(file, out)
    if scan < 0 or scan + _total(lengths) != len(file):
        return 0, 0, 0
    height, width = _number(out, frame + 5), _number(out, frame + 7)
    down, across = _largest_sampling(out, frame)
    mcu_height, segment_width = 8 * down, 8 * across * every
    rows, columns = -(-height // mcu_height), -(-width // segment_width)
    if rows * columns != len(lengths) or not (0 <= top < bottom <= height and 0 <= left < right <= width):
        return 0, 0, 0
    first_row, first_column = max(top - down, 0) // mcu_height, max(left - across, 0) // segment_width
    last_row = -(-min(bottom + down, height) // mcu_height)
    last_column = -(-min(right + across, width) // segment_width)
    if (last_row - first_row) * (last_column - first_column) == rows * columns:
        return 0, 0, 0
    top, left = first_row * mcu_height, first_column * segment_width
    _put_number(out, frame + 5, min(last_row * mcu_height, height) - top)
    _put_number(out, frame + 7, min(last_column * segment_width, width) - left)
    at, restart = scan + _total(lengths[: first_row * columns]), 0
    for row in range(first_row, last_row):
        of_row = lengths[row * columns : (row + 1) * columns]
        start = at + _total(of_row[:first_column])
        size = _total(of_row[first_column:last_column])
        out[to : to + size] = file[start : start + size]
        for segment in range(first_column, last_column):
            to += np.int64(of_row[segment])
            out[to - 1] = 0xD0 + restart % 8
            restart += 1
        at += _total(of_row)
    out[to - 1] = EOI
    return to, top, left


@njit(nogil=True, cache=True)
def _copy_header(file: np.ndarray, out: np.ndarray) -> tuple[int, int, int, int]:
    """Copy the header but for comments and application data that do not tell colours.

    Returns where the scan begins in the file (-1 for another kind of file) and in `out`, where the frame header
    lies in `out`, and the MCUs of a restart interval.
    """
    at, to, frame, every = 2, 2, 0, 0
    out[:2] = file[:2]
    while at + 10 < len(file) and file[at] == 0xFF:
        marker, size = file[at + 1], 2 + _number(file, at + 2)
        if at + size > len(file):
            break
        if 0xC0 <= marker <= 0xC1:
            frame = to
        elif marker == DRI:
            every = _number(file, at + 4)
        if marker < APP0 or marker in (APP0, APP14):
            out[to : to + size] = file[at : at + size]
            to += size
        at += size
        if marker == SOS:
            return (at, to, frame, every) if frame and every else (-1, 0, 0, 0)
    return -1, 0, 0, 0


@njit(nogil=True, cache=True)
def _largest_sampling(header: np.ndarray, frame: int) -> tuple[int, int]:
    """Blocks of an MCU, down and across."""
    down, across = 1, 1
    if header[frame + 9] > 1:
        for component in range(header[frame + 9]):
            sampling = np.int64(header[frame + 11 + 3 * component])
            down, across = max(down, sampling & 15), max(across, sampling >> 4)
    return down, across


@njit(nogil=True, cache=True)
def _total(lengths: np.ndarray) -> int:
    total = np.int64(0)
    for length in lengths:
        total += np.int64(length)
    return total


@njit(nogil=True, cache=True)
def _number(data: np.ndarray, at: int) -> int:
    return np.int64(data[at]) << 8 | np.int64(data[at + 1])


@njit(nogil=True, cache=True)
def _put_number(data: np.ndarray, at: int, value: int) -> None:
    data[at], data[at + 1] = value >> 8, value & 255
