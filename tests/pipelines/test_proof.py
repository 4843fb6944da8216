"""Every packed file is proved by the decoder that reads it: DALI decodes what PIL shows, within 3 levels."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from cli.errors import UserError
from cluster.process_pool import run_in_processes
from pipelines.loading.whole_images import whole_images
from pipelines.pack import pack
from pipelines.packing.dataset import pack_to
from pipelines.packing.decode import decode
from pipelines.packing.options import PackOptions
from pipelines.packing.prover import Prover
from pipelines.shards.reader import Shards
from pipelines.storage.folder import Folder
from tests.pipelines.test_decode import jpeg, with_stray_bytes
from tests.pipelines.test_pack import ORIENTATION, encoded, folder, picture


def chunks(png):
    """(kind, content, crc) of each chunk of a PNG file."""
    offset, found = 8, []
    while offset < len(png):
        size = int.from_bytes(png[offset : offset + 4], "big")
        kind = png[offset + 4 : offset + 8]
        found.append((kind, png[offset + 8 : offset + 8 + size], png[offset + 8 + size : offset + 12 + size]))
        offset += 12 + size
    return found


def png_of(parts):
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + crc for kind, content, crc in parts
    )


def without_end(png):
    return png_of([chunk for chunk in chunks(png) if chunk[0] != b"IEND"])


def with_wrong_crc(png):
    return png_of([(k, c, b"\0\0\0\0" if k == b"IDAT" else crc) for k, c, crc in chunks(png)])


def with_odd_chunk(png):
    """A private chunk before the data, with a valid CRC."""
    odd = (b"vpAg", bytes(9), struct.pack(">I", zlib.crc32(b"vpAg" + bytes(9))))
    first, *rest = chunks(png)
    return png_of([first, odd, *rest])


def segment(marker, content):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def tiff(kind, value, entries=1):
    """An EXIF block with an orientation of the given type (1 is BYTE, 3 SHORT, 4 LONG)."""
    packed = struct.pack("<I", value)
    entry = struct.pack("<HHI", ORIENTATION, kind, 1) + packed
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, entries) + entry * entries + bytes(4)


def with_exif(data, *blocks):
    return data[:2] + b"".join(segment(0xE1, block) for block in blocks) + data[2:]


def without_adobe(data):
    """A CMYK JPEG without the marker by which decoders tell whether its values are inverted."""
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]


SOUND = encoded(picture(1, 40, 60), quality=95, subsampling=0)
PNG = encoded(picture(2, 40, 60), "PNG")
HALVES = tiff(3, 6)[:20], b"Exif\0\0" + tiff(3, 6)[20:]
FILES = {
    "no-end.png": without_end(PNG),
    "crc.png": with_wrong_crc(PNG),
    "odd-chunk.png": with_odd_chunk(PNG),
    "byte.jpg": with_exif(SOUND, tiff(1, 6)),
    "long.jpg": with_exif(SOUND, tiff(4, 6)),
    "twice.jpg": with_exif(SOUND, tiff(3, 1), tiff(3, 6)),
    "halves.jpg": with_exif(SOUND, *HALVES),
    "no-adobe.jpg": without_adobe(encoded(picture(3, 40, 60).convert("CMYK"), quality=95)),
    "stray.jpg": with_stray_bytes(jpeg(40, 60)),
    "sound.jpg": SOUND,
    "sound.png": PNG,
}


def as_pil_shows(data):
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def test_dali_reads_every_packed_file_as_pil_shows_its_source(tmp_path):
    """One batch of all of them, as a test by the dense protocol reads them."""
    source = folder(tmp_path / "source", train=1, **{f"train/a/{name}": data for name, data in FILES.items()})
    manifest = pack(PackOptions(str(source), tmp_path / "out", workers=1))
    assert manifest.skipped == ()
    shards = Shards(tmp_path / "out", manifest, "train")
    for i in range(len(shards)):
        name = shards.key(i).split("/")[-1]
        if name not in FILES:
            continue
        wanted_HWC = as_pil_shows(FILES[name])
        (batch,) = whole_images(
            shards, range(i, i + 1), scale=min(wanted_HWC.shape[:2]), pixels=1,
            device=torch.device("cpu"), threads=1,
        )  # fmt: skip
        found_HWC = batch.images_BHWC[0].numpy()
        assert found_HWC.shape == wanted_HWC.shape, name
        apart_HW = np.abs(found_HWC.astype(int) - wanted_HWC).max(2)
        assert (apart_HW <= 3).mean() >= 0.99, (name, apart_HW.max())
        if name.startswith("sound"):
            assert shards.encoded(i).tobytes() == FILES[name]


def test_a_file_that_crashes_dali_is_found_among_others():
    sound, crashing = jpeg(), with_stray_bytes(jpeg())
    pixels_HWC = as_pil_shows(sound)
    prover = Prover()
    files = [(sound, pixels_HWC), (crashing, pixels_HWC), (b"junk", pixels_HWC)] * 5 + [
        (sound, 255 - pixels_HWC)
    ]
    assert prover.proved(files) == [True, False, False] * 5 + [False]
    assert prover.proved(files[:1]) == [True]


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_photograph_keeps_its_pixels(orientation):
    """Fine colours, which halved chroma would blur."""
    pixels_HWC = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    image = Image.fromarray(pixels_HWC).resize((120, 90), Image.Resampling.BICUBIC)
    data = encoded(image, orientation=orientation, quality=90)
    found = decode(data)
    assert not isinstance(found, str)
    shown_HWC = np.asarray(Image.open(io.BytesIO(found.data)))
    assert not Image.open(io.BytesIO(found.data)).getexif()
    apart_HW = np.abs(shown_HWC.astype(int) - as_pil_shows(data)).max(2)
    assert (apart_HW <= 3).mean() >= 0.99


@pytest.mark.parametrize("size", [(10_000, 20), (20, 10_000)])
def test_an_image_of_extreme_shape_is_skipped_with_the_reason(size):
    reason = decode(encoded(Image.new("RGB", size)))
    assert reason == f"{size[0]}×{size[1]} pixels: one side is over 32 times the other"
    assert not isinstance(decode(encoded(Image.new("RGB", (640, 20)))), str)


def test_a_source_that_a_node_cannot_read_is_an_error(tmp_path):
    """Not images that are skipped: the node lacks the folder that the first one listed."""
    source, away, out = folder(tmp_path / "source"), tmp_path / "away", tmp_path / "out"
    options = PackOptions(str(source), out)

    def on_another_node(function, tasks):
        source.rename(away)
        return run_in_processes(function, tasks, 1)

    with pytest.raises(UserError, match=r"a/0\.jpg of the source cannot be read on .*: No such file"):
        pack_to(Folder(str(out)), options, None, on_another_node)
    assert not out.exists()
    away.rename(source)
    assert pack(PackOptions(str(source), out, workers=1)).skipped == ()
