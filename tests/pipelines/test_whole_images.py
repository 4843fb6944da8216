"""Whole images, rescaled: every one once, in batches of one shape, with PIL's pixels."""

import io
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.loading.boxes import parts
from pipelines.loading.draw import rescaled
from pipelines.loading.whole_images import whole_images
from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from tests.photos import picture

SHAPES = [(375, 500), (500, 333), (240, 900), (64, 64), (1200, 800), (31, 45), (257, 256), (375, 500)] * 5
on_cpu = partial(whole_images, device=torch.device("cpu"), threads=2)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for split, shapes in (("train", SHAPES[:2]), ("val", SHAPES)):
        for label in "ab":
            (folder / "source" / split / label).mkdir(parents=True)
            for i, shape in enumerate(shapes):
                file = folder / "source" / split / label / f"{i:03d}.jpg"
                mode = "L" if i == 7 else "RGB"
                picture(*shape, mode, seed=i).save(
                    file, quality=95, **({} if mode == "L" else {"subsampling": 0})
                )
    turned = picture(300, 400)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "source/val/a/turned.jpg", quality=95, subsampling=0, exif=exif)
    pack(PackOptions(str(folder / "source"), folder / "packed", workers=1))
    return Shards(folder / "packed", read_manifest(folder / "packed"), "val")


def test_every_image_once_with_the_pixels_of_pil(shards):
    seen = []
    for batch in on_cpu(shards, range(len(shards)), scale=72, pixels=10**6):
        for image, pixels in zip(batch.images_B, batch.images_BHWC.numpy(), strict=True):
            (height,), (width,) = rescaled(shards.heights_N[[image]], shards.widths_N[[image]], np.array([72]))
            file = Image.open(io.BytesIO(shards.encoded(int(image)).tobytes())).convert("RGB")
            expected = np.asarray(file.resize((int(width), int(height)), Image.Resampling.BILINEAR))
            assert min(pixels.shape[:2]) == 72
            difference = np.abs(pixels.astype(int) - expected)
            assert difference.max() <= 2, shards.key(int(image))  # PIL rounds between its two passes
            assert difference.mean() < 0.4
            seen.append(int(image))
    assert sorted(seen) == list(range(len(shards)))


@pytest.mark.parametrize("pixels", [1, 3 * 72 * 96, 10**6])
def test_a_batch_has_one_shape_and_no_more_pixels_than_asked(shards, pixels):
    sizes = []
    for batch in on_cpu(shards, range(len(shards)), scale=72, pixels=pixels):
        count, height, width, _ = batch.images_BHWC.shape
        assert count == 1 or count * height * width <= pixels
        sizes.append(count)
    assert sum(sizes) == len(shards)
    assert (max(sizes) > 1) == (pixels > 1)


def test_the_part_within_a_box_is_an_image_of_its_own(shards):
    """Cut out by PIL before it is rescaled: no pixel beyond the box has a share."""
    rng = np.random.default_rng(3)
    corners_N22 = np.sort(rng.random((len(shards), 2, 2)), axis=1)
    boxes_N4 = corners_N22.reshape(-1, 4)
    parts_N4 = parts(boxes_N4, shards.heights_N, shards.widths_N)
    seen = []
    for batch in on_cpu(shards, range(3, len(shards)), scale=48, pixels=10**6, parts_N4=parts_N4):
        for image, pixels in zip(batch.images_B, batch.images_BHWC.numpy(), strict=True):
            top, left, height, width = parts_N4[image].tolist()
            file = Image.open(io.BytesIO(shards.encoded(int(image)).tobytes())).convert("RGB")
            cut = file.crop((left, top, left + width, top + height))
            assert min(pixels.shape[:2]) == 48
            expected = np.asarray(cut.resize(pixels.shape[1::-1], Image.Resampling.BILINEAR))
            difference = np.abs(pixels.astype(int) - expected)
            assert difference.max() <= 2, shards.key(int(image))
            assert pixels.shape[0] / pixels.shape[1] == pytest.approx(height / width, rel=0.02)
            seen.append(int(image))
    assert sorted(seen) == list(range(3, len(shards)))


def test_a_part_of_the_split(shards):
    seen = [int(i) for batch in on_cpu(shards, range(5, 17), scale=64, pixels=1) for i in batch.images_B]
    assert sorted(seen) == list(range(5, 17))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="placements on a GPU need one")
@pytest.mark.parametrize("placement", ["regions", "gpu"])
def test_a_batch_stays_whole_while_queued_kernels_read_it(shards, placement):
    """The device is behind the host: each batch is read long after the next ones have been decoded."""

    def checksums(device_is_behind):
        sums = []
        batches = whole_images(
            shards, range(len(shards)), scale=96, pixels=1, device=torch.device("cuda"), threads=1,
            placement=placement,
        )  # fmt: skip
        for batch in batches:
            if device_is_behind:
                torch.cuda._sleep(50_000_000)  # cycles, some 30 ms
            sums.append(batch.images_BHWC.long().sum())
            if not device_is_behind:
                torch.cuda.synchronize()
        return torch.stack(sums).tolist()

    assert checksums(device_is_behind=True) == checksums(device_is_behind=False)
