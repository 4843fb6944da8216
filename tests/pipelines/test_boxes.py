"""Boxes: turned with their image, which of them count, through the draws of a crop and back."""

from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pipelines.loading.boxes import from_crop, mean_in_crops, parts, to_crop
from pipelines.loading.draw import Augment, Draws, centre, draw
from pipelines.loading.loaders import EvalLoader, TrainLoader, with_box
from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from pipelines.shards.boxes import BOXES, EARLIER_BOXES, Box, OwnBoxes, upright
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from tests.photos import picture

HEIGHT, WIDTH = 40, 60
CPU = torch.device("cpu")
ORIENTATION = 0x0112  # EXIF tag


def marked(box, height=HEIGHT, width=WIDTH):
    """A black image that is white within the box."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    return pixels


def white(pixels):
    """The box of what is white."""
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@st.composite
def boxes_in(draw_, height=HEIGHT, width=WIDTH):
    x0, y0 = draw_(st.integers(0, width - 1)), draw_(st.integers(0, height - 1))
    return Box(x0, y0, draw_(st.integers(x0 + 1, width)), draw_(st.integers(y0 + 1, height)))


@settings(max_examples=60)
@given(edges=boxes_in(), orientation=st.integers(1, 8), noted=st.booleans())
def test_a_box_turns_with_its_image_as_pil_turns_it(edges, orientation, noted):
    """Noted for the file's pixels, at their size or at twice that."""
    image, exif = Image.fromarray(marked(edges)), Image.Exif()
    exif[ORIENTATION] = orientation
    image.info["exif"] = exif.tobytes()
    turned = np.asarray(ImageOps.exif_transpose(image))
    wanted = white(turned)
    high, wide = (HEIGHT, WIDTH) if noted else (0, 0)
    box = edges._replace(label="dog", height=high, width=wide)
    found = upright(box, orientation, *turned.shape)
    assert found[:5] == (*wanted, "dog")
    if noted:
        assert (found.height, found.width) == turned.shape
    x0, y0, x1, y1 = (2 * edge for edge in edges[:4])
    double = Box(x0, y0, x1, y1, "dog", 2 * HEIGHT, 2 * WIDTH)
    assert upright(double, orientation, *turned.shape)[:4] == tuple(2 * edge for edge in wanted)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_box_that_was_noted_for_the_turned_image_stays(orientation):
    """An annotator's tool showed it upright: the noted size says so."""
    box = Box(1, 2, 30, 50, "dog", 60, 40)
    assert upright(box, orientation, 60, 40) == box
    assert upright(box._replace(height=40, width=60), orientation, 60, 40) != box


def of_image(*boxes, label="dog", height=100, width=200):
    return OwnBoxes.of_image(boxes, label, height, width)


class TestWhichCount:
    def test_those_of_the_images_class_and_those_without_one(self):
        found = of_image(Box(0, 0, 20, 10, "cat"), Box(0, 0, 40, 50, "dog"), Box(0, 0, 20, 50))
        assert found.of(0).tolist() == [[0, 0, 0.2, 0.5], [0, 0, 0.1, 0.5]]

    def test_the_largest_is_trained_on_and_of_equals_the_first(self):
        small, first, second = Box(0, 0, 10, 10), Box(0, 0, 40, 50), Box(100, 50, 140, 100)
        assert of_image(small, first, second).targets_N4.tolist() == [[0, 0, 0.2, 0.5]]
        assert of_image(second, small, first).targets_N4.tolist() == [[0.5, 0.5, 0.7, 1]]

    def test_the_noted_size_is_the_measure(self):
        assert of_image(Box(0, 0, 40, 50, "dog", 200, 400)).of(0).tolist() == [[0, 0, 0.1, 0.25]]

    def test_what_exceeds_the_image_is_cut_off_and_a_box_without_area_is_none(self):
        assert of_image(Box(-50, 20, 300, 120)).of(0).tolist() == [[0, 0.2, 1, 1]]
        for none in (Box(10, 10, 10, 30), Box(30, 10, 20, 30), Box(250, 10, 300, 30)):
            assert np.isnan(of_image(none).targets_N4).all()
        assert np.isnan(of_image().targets_N4).all()


@settings(max_examples=60)
@given(data=st.data())
def test_a_column_says_what_its_images_say_one_by_one(data):
    """In several record batches, with and without boxes."""
    images = []
    for _ in range(data.draw(st.integers(0, 6))):
        height, width = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
        label, boxes = data.draw(st.integers(0, 2)), []
        for edges in data.draw(st.lists(boxes_in(), max_size=4)):
            high, wide = data.draw(st.sampled_from([(0, 0), (45, 70)]))
            name = data.draw(st.sampled_from(["", "a", "b", "x"]))
            boxes.append(edges._replace(label=name, height=high, width=wide))
        images.append((boxes, label, height, width))
    cells = [[box._asdict() for box in boxes] for boxes, *_ in images]
    cut = data.draw(st.integers(0, len(cells)))
    column = pa.chunked_array([pa.array(part, BOXES) for part in (cells[:cut], cells[cut:])], BOXES)
    labels_N = np.array([label for _, label, _, _ in images], np.int64)
    sizes_N2 = np.array([image[2:] for image in images], np.int64).reshape(-1, 2)
    found = OwnBoxes.of_column(column, labels_N, sizes_N2, ("a", "b", "c"))
    single = [OwnBoxes.of_image(boxes, "abc"[label], h, w) for boxes, label, h, w in images]
    assert found.count == len(images)
    for i, of_one in enumerate(single):
        np.testing.assert_allclose(found.of(i), of_one.of(0), rtol=1e-6)
    wanted_N4 = np.concatenate([np.empty((0, 4)), *(of_one.targets_N4 for of_one in single)])
    np.testing.assert_allclose(found.targets_N4, wanted_N4, rtol=1e-6)
    again = OwnBoxes.joined([found, found])
    assert again.count == 2 * len(images)
    np.testing.assert_array_equal(again.targets_N4, np.tile(found.targets_N4, (2, 1)))


def test_a_column_of_an_earlier_format():
    """Edges alone: of the image's own class and size."""
    column = pa.chunked_array([pa.array([[[0, 0, 5, 5], [0, 0, 10, 20]], []], EARLIER_BOXES)])
    found = OwnBoxes.of_column(column, np.array([1, 0]), np.array([[20, 10], [5, 5]]), ("a", "b"))
    assert found.of(0).tolist() == [[0, 0, 0.5, 0.25], [0, 0, 1, 1]]
    assert not len(found.of(1))


def some_draws(seed, rows=8, side=32, mirror=True):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(side, 3 * side, rows), rng.integers(side, 3 * side, rows)
    epochs, images = np.zeros(rows, np.int64), np.arange(rows)
    return draw(seed, epochs, images, *sizes, Augment(side, side, 2 * side, mirror), np.eye(3)), rng.random(
        (rows, 4)
    )


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32), side=st.sampled_from([32, 64, 224]))
def test_through_a_crop_and_back(seed, side):
    draws, boxes_B4 = some_draws(seed, side=side)
    np.testing.assert_allclose(from_crop(to_crop(boxes_B4, draws, side), draws, side), boxes_B4, atol=1e-9)
    np.testing.assert_allclose(to_crop(from_crop(boxes_B4, draws, side), draws, side), boxes_B4, atol=1e-9)


@pytest.mark.parametrize(("mirror", "height", "width"), [(True, 35, 41), (False, 50, 30)])
def test_the_mean_in_crops_is_that_of_all_crops_one_by_one(mirror, height, width):
    """Every scale, corner and mirroring that an image may draw, each as likely as the next of its kind."""
    box_4, side, scales = np.array([0.1, 0.2, 0.5, 0.9]), 32, range(33, 36)
    augment = Augment(side, scales[0], scales[-1], mirror)
    of_scales = []
    for scale in scales:
        scaled = [int(length * scale / min(height, width) + 0.5) for length in (height, width)]
        corners = np.array([(y, x) for y in range(scaled[0] - side + 1) for x in range(scaled[1] - side + 1)])
        for flip in (False, True) if mirror else (False,):
            rows = len(corners)
            tall, wide = (np.full(rows, length) for length in scaled)
            top, left = corners.T
            draws = Draws(tall, wide, top, left, np.full(rows, flip), np.zeros((rows, 3)))
            of_scales.append(to_crop(np.tile(box_4, (rows, 1)), draws, side).mean(0))
    found_N4 = mean_in_crops(box_4[None], np.array([height]), np.array([width]), augment)
    np.testing.assert_allclose(found_N4, [np.mean(of_scales, 0)], atol=1e-12)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32))
def test_mirrored_twice_a_box_is_where_it_was(seed):
    draws, boxes_B4 = some_draws(seed, mirror=False)
    mirrored = replace(draws, mirror_B=np.ones(len(boxes_B4), bool))
    unmirrored = np.stack([1 - boxes_B4[:, 2], boxes_B4[:, 1], 1 - boxes_B4[:, 0], boxes_B4[:, 3]], 1)
    once_B4, plain_B4 = to_crop(boxes_B4, mirrored, 32), to_crop(boxes_B4, draws, 32)
    np.testing.assert_allclose(once_B4[:, 2] - once_B4[:, 0], plain_B4[:, 2] - plain_B4[:, 0], atol=1e-9)
    twice_B4 = np.stack([1 - once_B4[:, 2], once_B4[:, 1], 1 - once_B4[:, 0], once_B4[:, 3]], 1)
    np.testing.assert_allclose(twice_B4, plain_B4, atol=1e-12)
    assert not np.allclose(unmirrored, boxes_B4)


@settings(max_examples=30)
@given(edges=boxes_in(), scale=st.integers(1, 4), mirror=st.booleans(), data=st.data())
def test_a_box_lies_where_its_pixels_lie(edges, scale, mirror, data):
    """Against the pixels themselves: enlarged, cut, mirrored, and found again by their colour."""
    side = 32
    top = data.draw(st.integers(0, HEIGHT * scale - side))
    left = data.draw(st.integers(0, WIDTH * scale - side))
    pixels = np.repeat(np.repeat(marked(edges), scale, 0), scale, 1)[top : top + side, left : left + side]
    draws = Draws(
        np.array([HEIGHT * scale]), np.array([WIDTH * scale]), np.array([top]), np.array([left]),
        np.array([mirror]), np.zeros((1, 3), np.float32),
    )  # fmt: skip
    fraction = np.array([edges[:4]]) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
    (found,) = to_crop(fraction, draws, side) * side
    if pixels.any():
        shown = white(pixels[:, ::-1] if mirror else pixels)
        np.testing.assert_allclose(np.clip(found, 0, side), shown, atol=1e-9)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Images of two sizes, some turned by EXIF, some without a box, one with two of its class and one other."""
    root = tmp_path_factory.mktemp("boxed")
    for split, count in (("train", 12), ("val", 5)):
        for i in range(count):
            folder = root / "source" / split / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            exif = Image.Exif()
            exif[ORIENTATION] = 6 if i % 3 == 1 else 1
            picture(48, 80, seed=i).save(folder / f"{split}{i}.jpg", quality=95, exif=exif)
            objects = ""
            for name, x0 in [("ab"[i % 2], 8), ("ab"[i % 2], 20), ("ba"[i % 2], 0)][: 0 if i % 4 == 3 else 3]:
                edges = zip(("xmin", "ymin", "xmax", "ymax"), (x0, 6, 40 + x0 // 10, 30), strict=True)
                inner = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges)
                objects += f"<object><name>{name}</name><bndbox>{inner}</bndbox></object>"
            size = "<size><width>80</width><height>48</height></size>"
            xml = root / "source" / "Annotations" / f"{split}{i}.xml"
            xml.parent.mkdir(exist_ok=True)
            xml.write_text(f"<annotation>{size}{objects}</annotation>")
    pack(PackOptions(str(root / "source"), root / "packed", workers=1))
    manifest = read_manifest(root / "packed")
    return manifest, {split: Shards(root / "packed", manifest, split) for split in manifest.splits}


class TestPacked:
    def test_boxes_are_turned_kept_and_counted(self, packed):
        manifest, shards = packed
        assert manifest.boxes.images == {"train": 9, "val": 4}
        targets_N4 = shards["train"].own_boxes().targets_N4
        for i in range(12):
            number = int(shards["train"].key(i).split("train")[-1].removesuffix(".jpg"))
            boxes = shards["train"].boxes(i)
            if number % 4 == 3:
                assert boxes == []
                assert np.isnan(targets_N4[i]).all()
                continue
            assert [box.label for box in boxes] == ["ab"[number % 2]] * 2 + ["ba"[number % 2]]
            if number % 3 == 1:  # turned a quarter to the right: x = 48 - y, y = x
                assert boxes[0][:4] == (18, 8, 42, 40)
                assert (boxes[0].height, boxes[0].width) == (80, 48)
                np.testing.assert_allclose(targets_N4[i], [18 / 48, 0.1, 42 / 48, 0.5])
            else:
                np.testing.assert_allclose(targets_N4[i], [0.1, 0.125, 0.5, 0.625])
        np.testing.assert_allclose(manifest.boxes.mean, np.nanmean(targets_N4, 0), rtol=1e-9)

    def test_batches_carry_the_boxes_of_images_that_have_one(self, packed):
        manifest, shards = packed
        targets_N4 = shards["train"].own_boxes().targets_N4
        augment = Augment(32, 40, 60)
        loader = TrainLoader(
            shards["train"], manifest, augment, seed=1, batch=9, rows=range(9), first_step=0, steps=2,
            device=CPU, threads=1, boxes_N4=targets_N4,
        )  # fmt: skip
        with loader as batches:
            for epoch, batch in enumerate(batches):
                assert sorted(batch.images_B) == with_box(targets_N4).tolist()
                sizes = shards["train"].heights_N[batch.images_B], shards["train"].widths_N[batch.images_B]
                draws = draw(1, np.full(9, epoch), batch.images_B, *sizes, augment, np.zeros((3, 3)))
                assert batch.boxes_B4 is not None
                assert batch.boxes_B4.dtype == torch.float32
                back_B4 = from_crop(batch.boxes_B4.double().numpy(), draws, 32)
                np.testing.assert_allclose(back_B4, targets_N4[batch.images_B], atol=1e-5)

    def test_a_test_crop_has_the_boxes_too_and_no_batch_has_them_unasked(self, packed):
        manifest, shards = packed
        boxes_N4 = shards["val"].own_boxes().targets_N4
        loader = partial(EvalLoader, side=32, scale=40, batch=5, device=CPU, threads=1)
        with loader(shards["val"], manifest, range(5), boxes_N4=boxes_N4) as batches:
            batch = next(batches)
        assert batch.boxes_B4 is not None
        draws = centre(shards["val"].heights_N, shards["val"].widths_N, 32, 40)
        np.testing.assert_allclose(batch.boxes_B4.numpy(), to_crop(boxes_N4, draws, 32), atol=1e-6)
        with loader(shards["val"], manifest, range(5)) as batches:
            assert next(batches).boxes_B4 is None


@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.tuples(*[st.integers(0, 700)] * 4),
)
def test_the_part_within_a_box_has_its_pixels(height, width, corners):
    """Edges on whole pixels are kept; one of no width at the last pixel has a pixel still."""
    x0, x1 = sorted(min(corner, width) for corner in corners[:2])
    y0, y1 = sorted(min(corner, height) for corner in corners[2:])
    boxes_14 = np.array([[x0 / width, y0 / height, x1 / width, y1 / height]])
    ((top, left, high, wide),) = parts(boxes_14, np.array([height]), np.array([width])).tolist()
    assert (top, left) == (min(y0, height - 1), min(x0, width - 1))
    assert (high, wide) == (max(y1 - top, 1), max(x1 - left, 1))
    assert top + high <= height
    assert left + wide <= width
