"""PASCAL VOC as distributed, made small in the very layout: packed, refused by training, transferred."""

import numpy as np
import pytest
from PIL import Image

from cli.errors import UserError
from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from tests.runners import in_this_process
from vgg import transfer
from vgg.transfer import FeaturesOptions, FitOptions
from vgg.transferring.feature_file import FeatureFile

MARKS = {"bird": 30, "cat": 90, "dog": 150}
"""Class -> brightness that its square adds to a channel of its own."""


def make_voc(folder):
    """VOCdevkit/VOC2007; of each image what its classes are marked with."""
    root = folder / "VOCdevkit" / "VOC2007"
    for sub in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / sub).mkdir(parents=True)
    marks = {}
    for split, count in (("train", 30), ("val", 12), ("test", 14)):
        for i in range(count):
            name = f"{split}{i:03d}"
            rng = np.random.default_rng([len(split), i])
            marks[name] = {label: int(rng.choice([1, 0, -1], p=[0.4, 0.15, 0.45])) for label in MARKS}
            pixels = rng.integers(0, 60, (40, 48, 3), np.uint8)
            objects = ""
            for k, label in enumerate(MARKS):
                if marks[name][label] >= 0:
                    pixels[:, 16 * k : 16 * k + 16, k] += 150
                    difficult = int(marks[name][label] == 0)
                    edges = {"xmin": 16 * k, "ymin": 0, "xmax": 16 * k + 16, "ymax": 40}
                    box = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges.items())
                    objects += f"<object><name>{label}</name><difficult>{difficult}</difficult>"
                    objects += f"<bndbox>{box}</bndbox></object>"
            Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
            (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
        names = [f"{split}{i:03d}" for i in range(count)]
        lists = root / "ImageSets" / "Main"
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for label in MARKS:
            lines = "".join(f"{name} {marks[name][label]:2d}\n" for name in names)
            (lists / f"{label}_{split}.txt").write_text(lines)
    for label in MARKS:  # train and val together, as VOC has them too
        both = ((root / "ImageSets/Main" / f"{label}_{split}.txt").read_text() for split in ("train", "val"))
        (root / "ImageSets/Main" / f"{label}_trainval.txt").write_text("".join(both))
    return root, marks


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc")
    root, marks = make_voc(folder)
    pack(PackOptions(str(folder / "VOCdevkit"), folder / "packed", workers=1))
    return folder / "packed", marks, root


def test_packed_with_all_labels(voc):
    packed, marks, _ = voc
    manifest = read_manifest(packed)
    assert (manifest.source, manifest.classes) == ("VOC-2007", tuple(MARKS))
    assert manifest.format == 6
    for split, count in (("train", 30), ("val", 12), ("test", 14)):
        shards = Shards(packed, manifest, split, labelled=False)
        labels, difficult = shards.classes_of_all()
        assert len(labels) == count
        for i in range(count):
            of_image = list(marks[shards.key(i)[len("JPEGImages/") : -len(".jpg")]].values())
            assert labels[i] == tuple(k for k, mark in enumerate(of_image) if mark == 1)
            assert difficult[i] == tuple(k for k, mark in enumerate(of_image) if mark == 0)
            assert len(shards.boxes(i)) == sum(mark >= 0 for mark in of_image)
    assert any(len(each) > 1 for each in labels)
    assert any(not each for each in labels)


def test_training_and_testing_refuse_it(voc):
    packed, _, _ = voc
    with pytest.raises(UserError, match=r"an image may be of several classes: python -m vgg\.transfer"):
        Shards(packed, read_manifest(packed), "val")


def test_features_and_mean_average_precision(voc, classifier, tmp_path):
    """The classes are colours at places, which a net's features tell apart better than chance."""
    packed, marks, _ = voc
    options = FeaturesOptions((str(classifier),), str(packed), str(tmp_path), scales=(36, 64))
    folder = transfer.features(options, in_this_process)
    found = FeatureFile(folder, "test.arrow").all()
    expected = [tuple(k for k, mark in enumerate(each.values()) if mark == 1) for each in marks.values()]
    assert found.labels == tuple(expected[42:])
    fit = FitOptions(str(folder.local), train=("train", "val"), test=("test",), costs=(1.0, 100.0))
    result, _ = transfer.fit(fit)
    truth = np.array([list(each.values()) for each in marks.values()])[42:]
    chance = np.mean([(truth[:, k] == 1).sum() / (truth[:, k] != 0).sum() for k in range(3)])
    assert 100 * chance + 10 < result["map_2010"] <= 100
    assert result["draws"][0]["trained_on"] == 42


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("cat_val.txt", "val000 2\n", "is no image with 1, 0 or -1"),
        ("val.txt", None, "has no ImageSets/Main/val.txt"),
    ],
)
def test_malformed_lists(tmp_path, file, content, match):
    root, _ = make_voc(tmp_path)
    listed = root / "ImageSets" / "Main" / file
    if content is None:
        listed.unlink()
    else:
        listed.write_text(content)
    with pytest.raises(UserError, match=match):
        pack(PackOptions(str(root), tmp_path / "packed", workers=1))


def test_two_years_are_told_apart(tmp_path):
    root, _ = make_voc(tmp_path)
    (root.parent / "VOC2012" / "ImageSets" / "Main").mkdir(parents=True)
    with pytest.raises(UserError, match="has VOC2007, VOC2012: name one of them"):
        pack(PackOptions(str(root.parent), tmp_path / "packed", workers=1))


def test_a_split_without_lists_of_classes_has_no_labels(tmp_path):
    """As VOC-2012's test images, whose classes only the evaluation server knows."""
    root, _ = make_voc(tmp_path)
    for label in MARKS:
        (root / "ImageSets" / "Main" / f"{label}_test.txt").unlink()
    pack(PackOptions(str(root), tmp_path / "packed", workers=1))
    manifest = read_manifest(tmp_path / "packed")
    labels, difficult = Shards(tmp_path / "packed", manifest, "test", labelled=False).classes_of_all()
    assert set(labels) == set(difficult) == {()}
