"""A crop is decoded from its own segments: pixels, order and counts are those of the files as they were."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nvidia.dali import fn, pipeline_def, types

from pipelines.jpeg.segments import assemble
from pipelines.jpeg.transcoding import transcode
from pipelines.loading.assembled import assembled
from pipelines.loading.draw import Augment
from pipelines.loading.loaders import EvalLoader, TrainLoader
from pipelines.pack import main, pack
from pipelines.packing.options import PackOptions
from pipelines.shards.manifest import MANIFEST, read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.schema import SCHEMA
from tests.pipelines.jpegs import SAMPLINGS, photograph, pixels
from tests.pipelines.test_pack import contents, encoded, picture
from tests.pipelines.test_sources import lay

CPU = torch.device("cpu")
SEVERAL = [(300, 400), (333, 217), (97, 640), (128, 128), (401, 255), (160, 96)]


def small_jpeg(data, top, left, bottom, right):
    """The assembled file of a region, and its place in the whole; None for the whole."""
    found = transcode(data)
    file = np.frombuffer(found.data, np.uint8)
    out = np.full(len(file) + 3, 7, np.uint8)
    size, y, x = assemble(file, found.lengths, top, left, bottom, right, out)
    assert (out[len(file) :] == 7).all()
    return (out[:size].tobytes(), y, x) if size else None


places = st.floats(0, 1)


@settings(max_examples=150)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    sampling=st.sampled_from(SAMPLINGS),
    progressive=st.booleans(),
    corner=st.tuples(places, places),
    size=st.tuples(places, places),
)
def test_pixels_inside_the_region_are_those_of_the_whole_file(
    height, width, sampling, progressive, corner, size
):
    data = photograph(height, width, sampling, quality=90, progressive=progressive)
    top, left = int(corner[0] * (height - 1)), int(corner[1] * (width - 1))
    bottom, right = top + 1 + int(size[0] * (height - top - 1)), left + 1 + int(size[1] * (width - left - 1))
    found = small_jpeg(data, top, left, bottom, right)
    if found is None:
        return
    small, y, x = found
    assert len(small) < len(data) + 700
    shown_HWC = pixels(small)
    wanted_HWC = pixels(data)[top:bottom, left:right]
    assert (shown_HWC[top - y : bottom - y, left - x : right - x] == wanted_HWC).all()


def test_a_small_region_takes_few_bytes():
    data = photograph(800, 800, "4:4:4")
    found = small_jpeg(data, 300, 300, 400, 400)
    assert found is not None
    assert len(found[0]) < 0.05 * len(data)


def test_a_file_that_its_lengths_do_not_fit_is_decoded_whole():
    found = transcode(photograph(100, 100, "4:4:4"))
    file, out = np.frombuffer(found.data, np.uint8), np.empty(len(found.data), np.uint8)
    region = 10, 10, 20, 20
    assert assemble(file, found.lengths, *region, out)[0] > 0
    for lengths in (found.lengths[:-1], found.lengths + np.uint16(1), found.lengths[:0]):
        assert assemble(file, lengths, *region, out) == (0, 0, 0)
    assert assemble(file[:-5], found.lengths, *region, out) == (0, 0, 0)
    assert assemble(np.zeros_like(file), found.lengths, *region, out) == (0, 0, 0)
    assert assemble(file, found.lengths, 10, 10, 101, 20, out) == (0, 0, 0)
    plain = np.frombuffer(photograph(100, 100), np.uint8)
    assert assemble(plain, np.array([len(plain)], np.uint16), *region, out) == (0, 0, 0)


def decoded(files, anchors=None, shapes=None):
    """What DALI shows of files, or of regions of them."""

    @pipeline_def(batch_size=len(files), num_threads=2, device_id=None)  # type: ignore[call-overload]
    def graph():
        feed = (files,) if anchors is None else (files, anchors, shapes)
        file, *region = fn.external_source(lambda: feed, num_outputs=len(feed))
        if anchors is None:
            return fn.decoders.image(file, output_type=types.DALIImageType.RGB)
        return fn.decoders.image_slice(
            file, *region, normalized_anchor=False, normalized_shape=False, axis_names="HW",
            output_type=types.DALIImageType.RGB,
        )  # fmt: skip

    pipe = graph()
    pipe.build()
    (images,) = pipe.run()
    return [np.asarray(images.at(i)) for i in range(len(files))]


def test_dali_shows_the_same_of_assembled_and_of_whole_files():
    """Of the very regions that it decodes for a training, at every edge of the image."""
    rng = np.random.default_rng(0)
    wholes, smalls, anchors, shapes, corners = [], [], [], [], []
    for number in range(60):
        height, width = rng.integers(50, 300, 2)
        data = photograph(int(height), int(width), SAMPLINGS[number % 6], number, quality=90)
        top, left = (int(rng.integers(0, size - 20)) if rng.random() < 0.7 else 0 for size in (height, width))
        bottom = int(rng.integers(top + 10, height + 1)) if rng.random() < 0.7 else int(height)
        right = int(rng.integers(left + 10, width + 1)) if rng.random() < 0.7 else int(width)
        small, y, x = small_jpeg(data, top, left, bottom, right) or (data, 0, 0)
        wholes.append(np.frombuffer(data, np.uint8))
        smalls.append(np.frombuffer(small, np.uint8))
        anchors.append(np.array([top - y, left - x], np.float32))
        shapes.append(np.array([bottom - top, right - left], np.float32))
        corners.append((top, left))
    for found, whole, shape, (top, left) in zip(
        decoded(smalls, anchors, shapes), decoded(wholes), shapes, corners, strict=True
    ):
        height, width = map(int, shape)
        assert (found == whole[top : top + height, left : left + width]).all()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Photographs of all kinds and files that are not transcoded, packed with segments and as they are."""
    root = tmp_path_factory.mktemp("both")
    files = {
        f"{split}/{label}/{number}-{sampling.replace(':', '')}.jpg": photograph(
            *SEVERAL[number], sampling, number, quality=90, progressive=number % 2 == 1
        )
        for split, label in (("train", "a"), ("train", "b"), ("val", "a"))
        for number in range(len(SEVERAL))
        for sampling in SAMPLINGS
    }
    files["train/a/cmyk.jpg"] = encoded(picture(1, 200, 300).convert("CMYK"))
    files["train/a/turned.jpg"] = encoded(picture(2, 200, 300), orientation=6)
    files["train/a/palette.png"] = encoded(picture(3, 200, 300), "PNG")
    files["train/a/small.jpg"] = encoded(picture(4, 60, 70))
    source = lay(root / "source", files)
    for segments in ("on", "off"):
        pack(PackOptions(str(source), root / segments, workers=1, segments=segments))
    return root


def opened(both, segments, split="train"):
    manifest = read_manifest(both / segments)
    return Shards(both / segments, manifest, split), manifest


def test_the_manifest_counts_what_was_transcoded_and_what_not(both):
    _, manifest = opened(both, "on")
    assert manifest.format == 4
    assert manifest.segments is not None
    assert manifest.segments.transcoded == 3 * len(SEVERAL) * len(SAMPLINGS) + 1  # the turned one as well
    assert manifest.segments.kept == {
        "4 colour components": 1, "not a JPEG file": 1, "fewer than 9,216 pixels": 1,
    }  # fmt: skip
    raw = json.loads((both / "on" / MANIFEST).read_text())
    assert raw["segments"] == {"transcoded": manifest.segments.transcoded, "kept": manifest.segments.kept}


def test_the_command_says_what_was_done(both, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["pack", str(both / "source"), str(tmp_path / "out"), "--workers", "1"])
    main()
    assert "with restart markers: 109; as they are: 1 4 colour components, 1 fewer" in capsys.readouterr().out
    assert contents(tmp_path / "out") == contents(both / "on")


def test_off_packs_files_as_they_are(both):
    shards, manifest = opened(both, "off")
    assert manifest.format == 3
    assert manifest.schema == SCHEMA
    raw = json.loads((both / "off" / MANIFEST).read_text())
    assert "segments" not in raw
    for i in range(len(shards)):
        if not shards.key(i).endswith("turned.jpg"):
            assert shards.encoded(i).tobytes() == (both / "source" / shards.key(i)).read_bytes()
        file, lengths = shards.encoded_in_segments(i)
        assert len(lengths) == 0
        assert (file == shards.encoded(i)).all()


def test_statistics_order_and_sizes_are_the_same(both):
    for split in ("train", "val"):
        (on, on_manifest), (off, off_manifest) = opened(both, "on", split), opened(both, "off", split)
        assert [on.key(i) for i in range(len(on))] == [off.key(i) for i in range(len(off))]
        for name in ("labels_N", "heights_N", "widths_N"):
            assert (getattr(on, name) == getattr(off, name)).all()
        assert on_manifest.mean_rgb == off_manifest.mean_rgb
        assert on_manifest.covariance_rgb == off_manifest.covariance_rgb


def test_every_crop_of_a_training_is_the_same(both):
    """Most are decoded from assembled files, in batches with files that have no segments."""
    usual = partial(TrainLoader, seed=3, batch=40, rows=range(40), first_step=0, steps=8, device=CPU, threads=2)
    batches = {}
    for segments in ("on", "off"):
        shards, manifest = opened(both, segments)
        with usual(shards, manifest, Augment(64, 64, 160)) as loader:
            batches[segments] = list(loader)
    assert len(batches["on"]) == 8
    for on, off in zip(batches["on"], batches["off"], strict=True):
        assert (on.images_B == off.images_B).all()
        assert torch.equal(on.images_BHWC, off.images_BHWC)
        assert torch.equal(on.offset_BC, off.offset_BC)
        assert torch.equal(on.labels_B, off.labels_B)


def test_every_centre_crop_of_an_evaluation_is_the_same(both):
    crops = {}
    for segments in ("on", "off"):
        shards, manifest = opened(both, segments, "val")
        images = range(len(shards))
        with EvalLoader(shards, manifest, images, side=64, scale=96, batch=9, device=CPU, threads=1) as loader:
            crops[segments] = torch.cat([batch.images_BHWC for batch in loader])
    assert len(crops["on"]) == len(SEVERAL) * len(SAMPLINGS)
    assert torch.equal(crops["on"], crops["off"])


def test_fewer_bytes_are_decoded_and_memory_is_used_again(both):
    shards, _ = opened(both, "on")
    images_B = np.arange(len(shards))
    shape_B2 = np.full((len(shards), 2), 40, np.float32)
    first = assembled(shards, images_B, np.zeros_like(shape_B2), shape_B2)
    whole = sum(len(shards.encoded(i)) for i in images_B)
    assert sum(map(len, first.files)) < 0.5 * whole
    contents_before = [file.tobytes() for file in first.files]
    again = assembled(shards, images_B, np.zeros_like(shape_B2), shape_B2, first.memory)
    assert again.memory is first.memory
    assert [file.tobytes() for file in again.files] == contents_before
    tiny = assembled(shards, images_B, np.zeros_like(shape_B2), shape_B2, np.empty(10, np.uint8))
    assert len(tiny.memory) >= sum(map(len, tiny.files))
