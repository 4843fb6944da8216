"""The markers of a JPEG file: its frame, its tables and its scans (ITU-T T.81, annex B)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from pipelines.jpeg.huffman import decoding_table

SOI, EOI, SOS, DQT, DHT, DRI, COM = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xFE
BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2
"""Frames that are read: Huffman-coded, sequential or progressive."""

OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
"""Lossless, hierarchical and arithmetic-coded frames."""


class NotTranscoded(ValueError):
    """A file whose coefficients are not read, with the reason."""


@dataclass(frozen=True)
class Component:
    """A colour component of a frame."""

    identifier: int
    across: int
    """Sampling factor H."""
    down: int
    """Sampling factor V."""
    quantisation: int
    """Number of its quantisation table."""


@dataclass(frozen=True)
class Frame:
    """The frame header."""

    marker: int
    height: int
    """In pixels."""
    width: int
    components: tuple[Component, ...]

    @property
    def mcu(self) -> tuple[int, int]:
        """Height and width of an MCU of a scan of all components, in pixels."""
        if len(self.components) == 1:
            return 8, 8
        return 8 * max(c.down for c in self.components), 8 * max(c.across for c in self.components)

    @property
    def mcus(self) -> tuple[int, int]:
        """MCUs per column and per row."""
        down, across = self.mcu
        return -(-self.height // down), -(-self.width // across)


@dataclass(frozen=True)
class Scan:
    """A scan header, and where its entropy-coded data begins."""

    components: tuple[int, ...]
    """Indices into the frame's components."""
    dc_tables: tuple[np.ndarray | None, ...]
    """Of each component; None if there is none of the number that the scan names."""
    ac_tables: tuple[np.ndarray | None, ...]
    first: int
    """Spectral selection: the first coefficient, in zigzag order."""
    last: int
    high: int
    """Successive approximation: bit position of the scan before; 0 in a first scan."""
    low: int
    restart_interval: int
    """In MCUs; 0 for none."""
    start: int
    """Offset of the entropy-coded data."""


@dataclass
class Headers:
    """What is known of a file after its markers so far."""

    kept: list[bytes] = field(default_factory=list)
    """Segments to keep, whole: application data, comments, quantisation tables."""
    frame: Frame | None = None
    wide_quantisation: set[int] = field(default_factory=set)
    """Numbers of 16-bit quantisation tables."""
    tables: dict[int, np.ndarray] = field(default_factory=dict)
    """Huffman decoding tables by class and number."""
    restart_interval: int = 0
    scans: int = 0


def scans(data: bytes, headers: Headers, entropy_end: list[int]) -> Iterator[Scan]:
    """Each scan of a file in order; `headers` follows.

    The caller decodes a scan and puts the offset of its end into `entropy_end` before it takes the next.
    NotTranscoded if the file is not a Huffman-coded JPEG of 8 bits with intact markers.
    """
    if data[:2] != b"\xff\xd8":
        raise NotTranscoded("not a JPEG file")
    offset = 2
    while True:
        marker, offset = _marker(data, offset)
        if marker == EOI:
            return
        length = int.from_bytes(data[offset : offset + 2], "big")
        body = data[offset + 2 : offset + length]
        if length < 2 or len(body) != length - 2:
            raise NotTranscoded("a marker segment is cut off")
        if marker == SOS:
            headers.scans += 1
            yield _scan(body, headers, offset + length)
            offset = entropy_end.pop()
            continue
        _read(marker, body, headers)
        offset += length


def _marker(data: bytes, offset: int) -> tuple[int, int]:
    """The marker at an offset, and the offset behind it."""
    start = offset
    while data[offset : offset + 1] == b"\xff":  # fill bytes
        offset += 1
    if offset == start or offset >= len(data) or data[offset] < 0xC0:
        raise NotTranscoded("stray bytes between markers, or the end is missing")
    return data[offset], offset + 1


def _read(marker: int, body: bytes, headers: Headers) -> None:
    if 0xE0 <= marker <= 0xEF or marker in (COM, DQT):
        headers.kept.append(bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body)
    if marker == DQT:
        if headers.scans:
            raise NotTranscoded("a quantisation table between scans")
        _read_quantisation(body, headers)
    elif marker == DHT:
        _read_huffman(body, headers)
    elif marker == DRI and len(body) == 2:
        headers.restart_interval = int.from_bytes(body, "big")
    elif marker in (BASELINE, EXTENDED, PROGRESSIVE):
        if headers.frame is not None:
            raise NotTranscoded("more than one frame")
        headers.frame = _frame(marker, body)
    elif marker in OTHER_FRAMES:
        raise NotTranscoded("lossless, hierarchical or arithmetic-coded")
    elif not (0xE0 <= marker <= 0xEF or marker == COM):
        raise NotTranscoded(f"marker {marker:#x}")


def _frame(marker: int, body: bytes) -> Frame:
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise NotTranscoded("a frame header of the wrong length")
    if body[0] != 8:
        raise NotTranscoded(f"{body[0]} bits a sample")
    components = tuple(
        Component(body[at], body[at + 1] >> 4, body[at + 1] & 15, body[at + 2]) for at in range(6, len(body), 3)
    )
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    if len(components) not in (1, 3):
        raise NotTranscoded(f"{len(components)} colour components")
    if not height or not width:
        raise NotTranscoded("no height in the frame header")
    if any(not (1 <= c.across <= 4 and 1 <= c.down <= 4) for c in components):
        raise NotTranscoded("invalid sampling factors")
    if len({c.identifier for c in components}) != len(components):
        raise NotTranscoded("components of one identifier")
    return Frame(marker, height, width, components)


def _read_quantisation(body: bytes, headers: Headers) -> None:
    at = 0
    while at < len(body):
        if body[at] >> 4:
            headers.wide_quantisation.add(body[at] & 15)
        at += 129 if body[at] >> 4 else 65
    if at != len(body):
        raise NotTranscoded("a quantisation table of the wrong length")


def _read_huffman(body: bytes, headers: Headers) -> None:
    at = 0
    while at < len(body):
        counts = np.frombuffer(body[at + 1 : at + 17], np.uint8)
        values = np.frombuffer(body[at + 17 : at + 17 + int(counts.sum())], np.uint8)
        if len(counts) != 16 or len(values) != counts.sum() or body[at] & 0xEF > 3:
            raise NotTranscoded("a Huffman table of the wrong length or number")
        table = decoding_table(counts, values)
        if table is None:
            raise NotTranscoded("an invalid Huffman table")
        headers.tables[body[at]] = table
        at += 17 + len(values)


def _scan(body: bytes, headers: Headers, start: int) -> Scan:
    count = body[0] if body else 0
    if headers.frame is None or len(body) != 4 + 2 * count:
        raise NotTranscoded("a scan header of the wrong length or before the frame")
    identifiers = [c.identifier for c in headers.frame.components]
    chosen = [(body[at], body[at + 1]) for at in range(1, 1 + 2 * count, 2)]
    if not chosen or any(identifier not in identifiers for identifier, _ in chosen):
        raise NotTranscoded("a scan of unknown components")
    components = tuple(identifiers.index(identifier) for identifier, _ in chosen)
    if list(components) != sorted(set(components)):
        raise NotTranscoded("a scan of components out of order")
    return Scan(
        components,
        tuple(headers.tables.get(tables >> 4) for _, tables in chosen),
        tuple(headers.tables.get(0x10 | tables & 15) for _, tables in chosen),
        first=body[-3],
        last=body[-2],
        high=body[-1] >> 4,
        low=body[-1] & 15,
        restart_interval=headers.restart_interval,
        start=start,
    )
