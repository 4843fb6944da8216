"""Rewrites a JPEG as one sequential scan with restart markers: the same coefficients, so the same pixels.

    decode the entropy-coded data of every scan, sequential or progressive, to quantised coefficients
    encode them again, with a restart marker every few MCUs and the shortest Huffman codes

Application data, comments and quantisation tables are kept. What lies behind the image's end is not.

Shapes: N blocks of the image, 64 coefficients of each in zigzag order; M blocks of a scan, in its order.
"""

from dataclasses import dataclass

import numpy as np

from pipelines.jpeg.entropy_decoding import decode_sequential, unstuffed
from pipelines.jpeg.entropy_encoding import DUMMY, encode, tokens
from pipelines.jpeg.huffman import TABLE, encoding_table, optimal_code
from pipelines.jpeg.markers import BASELINE, EXTENDED, PROGRESSIVE, Frame, Headers, NotTranscoded, Scan, scans
from pipelines.jpeg.progressive_decoding import decode_ac, decode_dc

SEGMENT_MCUS = (4, 5, 3, 6, 2, 7, 8)
"""MCUs per restart interval, in order of preference: the first that divides the MCUs of a row, else 1."""

MAX_COEFFICIENTS = 2**27
"""Larger images are not transcoded: their coefficients would take more than 0.25 GB."""

BLOCKS_OF_MCU = 10
"""Most blocks in an MCU (T.81, B.2.3)."""


@dataclass(frozen=True)
class Transcoded:
    """A file with restart markers."""

    data: bytes
    lengths: np.ndarray
    """uint16: bytes of each restart interval, with the two of the marker that ends it."""


def transcode(data: bytes) -> Transcoded:
    """The file with restart markers. NotTranscoded, with the reason, if it has to stay as it is."""
    file = np.frombuffer(data, np.uint8)
    headers, entropy_end = Headers(), list[int]()
    blocks, coefficients_N64 = None, np.empty((0, 64), np.int16)
    for scan in scans(data, headers, entropy_end):
        if blocks is None:
            assert headers.frame is not None
            blocks = _Blocks(headers.frame)
            coefficients_N64 = np.zeros((blocks.count, 64), np.int16)
        entropy_end.append(_decode(file, scan, blocks, coefficients_N64))
    if blocks is None:
        raise NotTranscoded("no scan")
    if (blocks.bits_left != 0).any():
        raise NotTranscoded("coefficients are missing")
    return _encode(blocks, coefficients_N64, headers)


class _Blocks:
    """Where the blocks of a frame's components lie, and which bits of their coefficients have been decoded."""

    def __init__(self, frame: Frame) -> None:
        self.frame, (self.rows, self.columns) = frame, frame.mcus
        self.single = len(frame.components) == 1
        sizes = [(1, 1)] if self.single else [(c.down, c.across) for c in frame.components]
        if sum(down * across for down, across in sizes) > BLOCKS_OF_MCU:
            raise NotTranscoded("more than 10 blocks in an MCU")
        most_down, most_across = (max(each) for each in zip(*sizes, strict=True))
        self.grids, self.true_shapes, self.count = [], [], 0
        for down, across in sizes:
            shape = self.rows * down, self.columns * across
            self.grids.append(self.count + np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape))
            height, width = -(-frame.height * down // most_down), -(-frame.width * across // most_across)
            self.true_shapes.append((-(-height // 8), -(-width // 8)))
            self.count += shape[0] * shape[1]
        if self.count * 64 > MAX_COEFFICIENTS:
            raise NotTranscoded("too large")
        self.slots = np.repeat(np.arange(len(sizes)), [down * across for down, across in sizes])
        self.bits_left = np.full((len(sizes), 64), -1)
        """Of each coefficient of each component, the bit position of its last scan; -1 before the first."""

    def order(self, components: tuple[int, ...], *, dummies: bool = False) -> np.ndarray:
        """Indices of the blocks of a scan, int32 [M]; with `dummies`, those outside the image are `DUMMY`."""
        if len(components) == 1:
            rows, columns = self.true_shapes[components[0]]
            return np.ascontiguousarray(self.grids[components[0]][:rows, :columns]).reshape(-1)
        parts = []
        for component in components:
            grid = self.grids[component]
            if dummies:
                grid = grid.copy()
                rows, columns = self.true_shapes[component]
                grid[rows:], grid[:, columns:] = DUMMY, DUMMY
            down, across = grid.shape[0] // self.rows, grid.shape[1] // self.columns
            mcus = grid.reshape(self.rows, down, self.columns, across).transpose(0, 2, 1, 3)
            parts.append(mcus.reshape(self.rows * self.columns, down * across))
        return np.concatenate(parts, 1).reshape(-1)

    def scan_slots(self, components: tuple[int, ...]) -> np.ndarray:
        """Component of each block of an MCU, by its place in the scan, int64."""
        if len(components) == 1:
            return np.zeros(1, np.int64)
        counts = [int((self.slots == component).sum()) for component in components]
        return np.repeat(np.arange(len(components)), counts)


def _decode(file: np.ndarray, scan: Scan, blocks: _Blocks, coefficients_N64: np.ndarray) -> int:
    """Decode a scan; returns the offset of the marker behind it."""
    progressive = blocks.frame.marker == PROGRESSIVE
    _check_progress(scan, blocks, progressive)
    data, bounds, end = unstuffed(file, scan.start)
    slots = blocks.scan_slots(scan.components)
    order_M = blocks.order(scan.components)
    interval = len(slots) * scan.restart_interval or max(len(order_M), 1)
    stream = data, bounds, order_M
    if not progressive:
        tables = _stacked(scan.dc_tables), _stacked(scan.ac_tables)
        intact = decode_sequential(*stream, slots, interval, *tables, coefficients_N64)
    elif scan.first == 0:
        refining = scan.high > 0
        dc_tables = np.zeros((4, TABLE), np.int32) if refining else _stacked(scan.dc_tables)
        intact = decode_dc(*stream, slots, interval, dc_tables, refining, scan.low, coefficients_N64)
    else:
        (table,) = _stacked(scan.ac_tables)
        band = scan.first, scan.last, scan.high > 0, scan.low
        intact = decode_ac(*stream, interval, table, *band, coefficients_N64)  # type: ignore[arg-type]
    if end < 0 or not intact:
        raise NotTranscoded("corrupt entropy-coded data")
    return end


def _check_progress(scan: Scan, blocks: _Blocks, progressive: bool) -> None:
    """NotTranscoded unless the scan follows those before it (T.81, G.1.1)."""
    band = scan.first, scan.last, scan.high, scan.low
    if not progressive and band != (0, 63, 0, 0):
        raise NotTranscoded("spectral selection in a sequential file")
    if progressive and (
        (scan.first == 0) != (scan.last == 0)
        or not scan.first <= scan.last <= 63
        or (scan.first and len(scan.components) > 1)
    ):
        raise NotTranscoded("an invalid spectral selection")
    before = blocks.bits_left[list(scan.components), scan.first : scan.last + 1]
    if scan.low > 13 or (before != (scan.high or -1)).any() or (scan.high and scan.low != scan.high - 1):
        raise NotTranscoded("an invalid successive approximation")
    blocks.bits_left[list(scan.components), scan.first : scan.last + 1] = scan.low


def _stacked(tables: tuple[np.ndarray | None, ...]) -> np.ndarray:
    found = [table for table in tables if table is not None]
    if len(found) < len(tables):
        raise NotTranscoded("a Huffman table is missing")
    return np.stack(found)


def _encode(blocks: _Blocks, coefficients_N64: np.ndarray, headers: Headers) -> Transcoded:
    frame = blocks.frame
    every = next((k for k in SEGMENT_MCUS if blocks.columns % k == 0), 1)
    interval = every * len(blocks.slots)
    order_M = blocks.order(tuple(range(len(frame.components))), dummies=True)
    tokens_T, starts, frequencies = tokens(coefficients_N64, order_M, blocks.slots, interval)
    if not len(tokens_T):
        raise NotTranscoded("a coefficient is out of range")
    codes, huffman = np.zeros((4, 256), np.uint32), b""
    for table in range(2 if blocks.single else 4):
        frequencies[table, 256] = 1
        counts, symbols = optimal_code(frequencies[table])
        codes[table] = encoding_table(counts, symbols)
        huffman += bytes([(table % 2) << 4 | table // 2, *counts[1:], *symbols])
    scan, lengths = encode(tokens_T, starts, blocks.slots, interval, codes.reshape(-1))
    wide = {component.quantisation for component in frame.components} & headers.wide_quantisation
    marker = frame.marker if frame.marker != PROGRESSIVE else EXTENDED if wide else BASELINE
    sof = [8, *frame.height.to_bytes(2, "big"), *frame.width.to_bytes(2, "big"), len(frame.components)]
    sos = [len(frame.components)]
    for number, c in enumerate(frame.components):
        sof += [c.identifier, c.across << 4 | c.down, c.quantisation]
        sos += [c.identifier, 0x11 * min(number, 1)]
    header = b"".join(headers.kept) + _segment(marker, bytes(sof)) + _segment(0xC4, huffman)
    header += _segment(0xDD, every.to_bytes(2, "big")) + _segment(0xDA, bytes([*sos, 0, 63, 0]))
    return Transcoded(b"\xff\xd8" + header + scan.tobytes(), lengths.astype(np.uint16))


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body
