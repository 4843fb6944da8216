"""Files with restart markers have the coefficients, the pixels and the markers of their originals."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.jpeg.huffman import decoding_table, encoding_table, optimal_code
from pipelines.jpeg.markers import NotTranscoded
from pipelines.jpeg.transcoding import SEGMENT_MCUS, transcode
from tests.photos import picture
from tests.pipelines.jpegs import SAMPLINGS, frame, jpegtran, needs_jpegtran, photograph, pixels

sizes = st.integers(1, 150)
files = st.builds(
    photograph,
    sizes,
    sizes,
    st.sampled_from(SAMPLINGS),
    st.integers(0, 99),
    quality=st.sampled_from([5, 60, 85, 100]),
    progressive=st.booleans(),
    optimize=st.booleans(),
    restart_marker_blocks=st.sampled_from([0, 0, 1, 3]),
)


def scan(data: bytes) -> int:
    """Offset of the entropy-coded data of a file with one scan."""
    at = data.index(b"\xff\xda")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def mcus_per_segment(data: bytes) -> int:
    at = data.index(b"\xff\xdd\x00\x04")
    return int.from_bytes(data[at + 4 : at + 6], "big")


@settings(max_examples=80)
@given(data=files)
def test_pixels_are_those_of_the_original(data):
    found = transcode(data)
    assert (pixels(found.data) == pixels(data)).all()


@needs_jpegtran
@settings(max_examples=60)
@given(data=files)
def test_coefficients_and_codes_are_jpegtrans(data):
    """Each coefficient: both files are the same once jpegtran has written them in its usual form.

    The scan is, to the byte, the one that jpegtran writes with restart markers and optimised tables.
    """
    found = transcode(data)
    assert jpegtran(found.data) == jpegtran(data)
    theirs = jpegtran(data, "-optimize", "-restart", f"{mcus_per_segment(found.data)}B")
    assert found.data[scan(found.data) :] == theirs[scan(theirs) :]


@settings(max_examples=40)
@given(data=files)
def test_a_segment_is_one_stretch_of_a_row_and_its_length_is_told(data):
    found = transcode(data)
    at, start = frame(found.data), scan(found.data)
    height, width = (int.from_bytes(found.data[at + place : at + place + 2], "big") for place in (5, 7))
    across, down = (found.data[at + 11] >> 4, found.data[at + 11] & 15) if found.data[at + 9] == 3 else (1, 1)
    rows, columns = -(-height // (8 * down)), -(-width // (8 * across))
    every = mcus_per_segment(found.data)
    assert columns % every == 0
    assert every in (*SEGMENT_MCUS, 1)
    assert len(found.lengths) == rows * columns // every
    ends = start + np.cumsum(found.lengths.astype(int))
    assert ends[-1] == len(found.data)
    markers = [found.data[end - 2 : end] for end in ends]
    assert markers == [bytes([0xFF, 0xD0 + i % 8]) for i in range(len(ends) - 1)] + [b"\xff\xd9"]


def test_application_data_comments_and_tables_are_kept():
    exif = Image.Exif()
    exif[0x010E] = "a description"
    data = photograph(
        40, 60, exif=exif, icc_profile=b"not a profile" * 9, comment=b"a comment", progressive=True
    )
    found = Image.open(io.BytesIO(transcode(data).data))
    original = Image.open(io.BytesIO(data))
    assert isinstance(found.info["icc_profile"], bytes)
    for name in ("exif", "icc_profile", "comment", "jfif", "dpi"):
        assert found.info.get(name) == original.info.get(name), name
    assert found.quantization == original.quantization  # type: ignore[attr-defined]
    assert "progression" not in found.info


def test_transcoding_is_a_function_of_the_file_and_changes_nothing_the_second_time():
    data = photograph(100, 131, "4:2:0")
    once = transcode(data)
    assert transcode(data).data == once.data
    again = transcode(once.data)
    assert again.data == once.data
    assert (again.lengths == once.lengths).all()


def with_wide_tables(data: bytes) -> bytes:
    """The same quantisation tables in 16 bits."""
    at = data.index(b"\xff\xdb")
    while data[at : at + 2] == b"\xff\xdb":
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        body, wide = data[at + 4 : at + 2 + size], b""
        for first in range(0, len(body), 65):
            wide += bytes([0x10 | body[first]]) + bytes(b for v in body[first + 1 : first + 65] for b in (0, v))
        segment = b"\xff\xdb" + (2 + len(wide)).to_bytes(2, "big") + wide
        data = data[:at] + segment + data[at + 2 + size :]
        at += len(segment)
    return data


def with_fill_bytes(data: bytes) -> bytes:
    for marker in (b"\xff\xdb", b"\xff\xc0", b"\xff\xc4", b"\xff\xda", b"\xff\xd9"):
        data = data.replace(marker, b"\xff\xff\xff" + marker, 1)
    return data


SOUND = photograph(45, 70)
ODD = {
    "16-bit quantisation": with_wide_tables(SOUND),
    "16-bit quantisation, progressive": with_wide_tables(photograph(45, 70, progressive=True)),
    "fill bytes": with_fill_bytes(photograph(45, 70, "grey")),
    "trailing garbage": SOUND + b"\0\1\2\xff\xd8 and more",
    "extended sequential": SOUND.replace(b"\xff\xc0", b"\xff\xc1", 1),
    "one MCU": photograph(3, 5),
    "one segment a row": photograph(64, 32, "4:4:4"),
    "a prime number of MCUs": photograph(64, 16 * 11),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_files(name):
    found = transcode(ODD[name])
    assert (pixels(found.data) == pixels(ODD[name])).all()


def test_a_16_bit_table_is_in_no_baseline_file():
    found = transcode(ODD["16-bit quantisation, progressive"]).data
    assert found[frame(found) + 1] == 0xC1


@needs_jpegtran
def test_scans_of_single_components(tmp_path):
    """A sequential file that is not interleaved: blocks that only complete an MCU are not in it."""
    (tmp_path / "scans").write_text("0;\n1;\n2;\n")
    apart = jpegtran(SOUND, "-scans", str(tmp_path / "scans"))
    assert apart.count(b"\xff\xda") == 3
    found, whole = transcode(apart).data, transcode(SOUND).data
    assert found[scan(found) :] == whole[scan(whole) :]


def grey_with_sampling_of_two() -> bytes:
    """A greyscale file whose header says 2×2: its MCU is one block all the same."""
    data = bytearray(photograph(45, 70, "grey"))
    data[frame(bytes(data)) + 11] = 0x22
    return bytes(data)


def test_sampling_factors_of_a_single_component_mean_nothing():
    data = grey_with_sampling_of_two()
    assert (pixels(transcode(data).data) == pixels(data)).all()


def changed(data: bytes, offset: int, value: int) -> bytes:
    return data[:offset] + bytes([value]) + data[offset + 1 :]


def cmyk() -> bytes:
    file = io.BytesIO()
    picture(40, 60, "CMYK").save(file, "JPEG")
    return file.getvalue()


PROGRESSIVE = photograph(45, 70, progressive=True)
REFUSED = {
    "not a JPEG": (b"\x89PNG\r\n\x1a\n" + bytes(50), "not a JPEG file"),
    "empty": (b"", "not a JPEG file"),
    "CMYK": (cmyk(), "4 colour components"),
    "arithmetic": (changed(SOUND, frame(SOUND) + 1, 0xC9), "arithmetic-coded"),
    "lossless": (changed(SOUND, frame(SOUND) + 1, 0xC3), "lossless"),
    "12 bits": (changed(SOUND, frame(SOUND) + 4, 12), "12 bits a sample"),
    "no height": (SOUND[: frame(SOUND) + 5] + b"\0\0" + SOUND[frame(SOUND) + 7 :], "no height"),
    "cut": (SOUND[:-400], "corrupt"),
    "cut before its end": (SOUND[:-2], "corrupt"),
    "stray bytes": (SOUND[:2] + b"\0\0" + SOUND[2:], "stray bytes"),
    "a restart marker too many": (SOUND[:-30] + b"\xff\xd0" + SOUND[-30:], "corrupt"),
    "its last scan is missing": (PROGRESSIVE[: PROGRESSIVE.rindex(b"\xff\xda")] + b"\xff\xd9", "missing"),
    "without Huffman tables": (SOUND.replace(b"\xff\xc4", b"\xff\xfe"), "a Huffman table is missing"),
    "sampling of 5": (changed(SOUND, frame(SOUND) + 11, 0x51), "sampling"),
    "12 blocks": (changed(photograph(45, 70, "4:4:4"), frame(SOUND) + 11, 0x44), "more than 10 blocks"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_stays_as_it_is_has_a_reason(name):
    data, reason = REFUSED[name]
    with pytest.raises(NotTranscoded, match=reason):
        transcode(data)


@settings(max_examples=300)
@given(
    data=st.sampled_from([SOUND, PROGRESSIVE, ODD["fill bytes"], photograph(40, 40, restart_marker_blocks=2)]),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_a_damaged_file_is_refused_or_keeps_what_a_decoder_makes_of_it(data, changes):
    for place, value in changes:
        data = changed(data, int(place * (len(data) - 1)), value)
    try:
        found = transcode(data)
    except NotTranscoded:
        return
    try:
        wanted = pixels(data)
    except (OSError, ValueError, SyntaxError):
        return
    assert (pixels(found.data) == wanted).all()


@given(st.lists(st.integers(0, 10**6), min_size=256, max_size=256), st.integers(0, 256))
@settings(max_examples=30)
def test_a_code_decodes_to_its_symbols(frequencies, absent):
    frequencies_S = np.array([*frequencies, 1], np.int64)
    frequencies_S[:absent] = 0
    counts, symbols = optimal_code(frequencies_S)
    assert sorted(symbols) == list(np.flatnonzero(frequencies_S[:256]))
    assert sum(count / 2**length for length, count in enumerate(counts)) < 1  # Kraft, and none is all ones
    codes = encoding_table(counts, symbols)
    assert decoding_table(counts[1:].astype(np.uint8), symbols) is not None
    for symbol in symbols:
        length, code = codes[symbol] >> 16, codes[symbol] & 0xFFFF
        others = [int(codes[s]) for s in symbols if s != symbol and codes[s] >> 16 >= length]
        assert all((other & 0xFFFF) >> ((other >> 16) - length) != code for other in others)


def test_files_of_imagenet(shared_data):
    import tarfile

    sizes = [0, 0]
    with tarfile.open(shared_data / "imagenet-sample-250.tar") as archive:
        for member in [member for member in archive if member.isfile()][:40]:
            stream = archive.extractfile(member)
            assert stream is not None
            data = stream.read()
            found = transcode(data)
            assert (pixels(found.data) == pixels(data)).all(), member.name
            sizes = [sizes[0] + len(data), sizes[1] + len(found.data) + found.lengths.nbytes]
    assert sizes[1] < 1.06 * sizes[0]
