"""Decoding at packing: what is kept is what every decoder reads, and reasons are the same each time."""

import io

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types
from PIL import Image

from pipelines.packing.decode import Decoded, decode


def jpeg(height=64, width=96):
    pixels_HWC = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def with_stray_bytes(data):
    """Between two segments of the header, where libjpeg skips them."""
    second = 2 + 2 + int.from_bytes(data[4:6], "big")
    return data[:second] + b"\x07\x07\x07" + data[second:]


def test_a_sound_file_is_kept():
    found = decode(jpeg())
    assert isinstance(found, Decoded)
    assert found.data == jpeg()


def test_a_file_that_crashes_dali_is_rewritten():
    """Eight of them in a batch of sound ones, as a training would read them."""
    found = decode(with_stray_bytes(jpeg()))
    assert isinstance(found, Decoded)
    files = [np.frombuffer(file, np.uint8) for file in [jpeg(), found.data] * 8]

    @pipeline_def(batch_size=len(files), num_threads=2, device_id=None)  # type: ignore[call-overload]  # the stub lacks None
    def regions():
        return fn.decoders.image_slice(
            fn.external_source(lambda: files), np.array([8, 8], np.float32), np.array([32, 32], np.float32),
            output_type=types.DALIImageType.RGB, normalized_anchor=False, normalized_shape=False,
            axis_names="HW",
        )  # fmt: skip

    pipe = regions()
    pipe.build()
    (crops,) = pipe.run()
    wanted = np.asarray(Image.open(io.BytesIO(jpeg())))[8:40, 8:40].astype(int)
    for i in range(len(files)):
        assert np.abs(np.asarray(crops.at(i)).astype(int) - wanted).mean() < 4


def test_the_reason_is_the_same_each_time():
    assert decode(b"no image") == decode(b"no image") == "no image of a known format"


@pytest.mark.parametrize("size", [(1, 1), (255, 257), (400, 500)])
def test_sums_over_blocks_are_those_of_the_image(size):
    found = decode(jpeg(*size))
    assert isinstance(found, Decoded)
    pixels_NC = np.asarray(Image.open(io.BytesIO(jpeg(*size))), np.int64).reshape(-1, 3)
    assert (found.sum_C == pixels_NC.sum(0)).all()
    assert (found.products_CC == pixels_NC.T @ pixels_NC).all()
