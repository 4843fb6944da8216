"""VOC's action classification, made small in the very layout: packed, features of image and box, learned."""

import numpy as np
import pytest

from cli.errors import UserError
from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from pipelines.sources.recognise import open_source
from tests.runners import in_this_process, in_two_processes, one_thread
from tests.transferring.made_actions import ACTIONS, COUNTS, HEIGHT, WIDTH, make_actions
from tests.transferring.test_features import files
from vgg import transfer
from vgg.testing import scoring
from vgg.transfer import FeaturesOptions, FitOptions
from vgg.transferring.feature_file import FeatureFile

LISTS = "ImageSets/Action"


@pytest.fixture(scope="module")
def actions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("actions")
    root, persons = make_actions(folder)
    pack(PackOptions(str(root / LISTS), folder / "packed", workers=1))
    return folder / "packed", persons


def expected(persons, split):
    """Key -> person, in order."""
    return {
        f"JPEGImages/{name}.jpg#{person.number}": person
        for name, of_image in persons.items()
        if name.startswith(f"2011_{split}")
        for person in of_image
    }


def test_packed_a_row_for_each_person(actions):
    packed, persons = actions
    manifest = read_manifest(packed)
    assert (manifest.source, manifest.classes) == ("VOC-2012 actions", ACTIONS)
    assert manifest.boxes is not None
    for split in COUNTS:
        shards, of_split = Shards(packed, manifest, split, labelled=False), expected(persons, split)
        assert [shards.key(i) for i in range(len(shards))] == list(of_split)
        labels, difficult = shards.classes_of_all()
        own, rows = shards.own_boxes(), enumerate(of_split.values())
        assert manifest.boxes.images[split] == len(of_split)
        for i, person in rows:
            marks = [person.marks.get(action) for action in ACTIONS]
            assert labels[i] == tuple(k for k, mark in enumerate(marks) if mark == 1)
            assert difficult[i] == tuple(k for k, mark in enumerate(marks) if mark in (0, None))
            (box,) = own.of(i) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
            assert box == pytest.approx(person.box, abs=1e-9)
        numbers = {person.number for person in of_split.values()}
        assert numbers == {1, 2, 3}
    assert any(None in map(person.marks.get, ACTIONS) for person in of_split.values())


def test_some_actions_alone(tmp_path):
    root, _ = make_actions(tmp_path)
    source = open_source(str(root / LISTS), classes=("running",))
    assert source.classes == ["running"]
    assert {label for file in source.files for label in file.labels} == {"running"}


def test_other_is_no_class(tmp_path):
    root, _ = make_actions(tmp_path)
    (root / LISTS / "other_train.txt").write_text("2011_train000 2 1\n")
    assert open_source(str(root / LISTS)).classes == list(ACTIONS)


def test_a_test_split_without_labels_has_every_person(tmp_path):
    """As distributed: its labels are on the evaluation server alone."""
    root, persons = make_actions(tmp_path)
    for action in ACTIONS:
        (root / LISTS / f"{action}_test.txt").unlink()
    found = [file for file in open_source(str(root / LISTS)).files if file.split == "test"]
    assert [file.key for file in found] == list(expected(persons, "test"))
    assert {(file.labels, file.difficult) for file in found} == {((), ())}


def test_a_test_split_whose_list_names_the_persons(tmp_path):
    root, _ = make_actions(tmp_path)
    for action in ACTIONS:
        (root / LISTS / f"{action}_test.txt").unlink()
    (root / LISTS / "test.txt").write_text("2011_test001 2\n2011_test003 3\n")
    found = [file.key for file in open_source(str(root / LISTS)).files if file.split == "test"]
    assert found == ["JPEGImages/2011_test001.jpg#2", "JPEGImages/2011_test003.jpg#3"]


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (None, "has no Annotations/2011_val000.xml"),
        ("<annotation>", "Annotations/2011_val000.xml is damaged"),
        ("<annotation><object><name>person</name></object></annotation>", "object 2 is no person with a box"),
        ("<annotation/>", "object 2 is no person with a box"),
    ],
)
def test_a_person_without_a_box_is_set_aside(tmp_path, annotation, reason):
    root, _ = make_actions(tmp_path)
    file = root / "Annotations" / "2011_val000.xml"
    if annotation is None:
        file.unlink()
    else:
        file.write_text(annotation)
    source = open_source(str(root / LISTS))
    (skipped,) = source.skipped
    assert reason in skipped.reason
    assert skipped.key.startswith("JPEGImages/2011_val000.jpg")
    assert not [entry for entry in source.files if "2011_val000" in entry.key]


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("reading_val.txt", "2011_val000 1\n", "is no image with an object and 1, 0 or -1"),
        ("reading_val.txt", "2011_val000 1 2\n", "is no image with an object and 1, 0 or -1"),
        ("reading_val.txt", "2011_elsewhere 1 1\n", "has 2011_elsewhere, which val.txt does not name"),
        ("val.txt", "2011_val000 1 1\n", "is no image, nor an image with a number"),
        ("val.txt", None, "has no ImageSets/Action/val.txt"),
    ],
)
def test_malformed_lists(tmp_path, file, content, match):
    root, _ = make_actions(tmp_path)
    listed = root / LISTS / file
    if content is None:
        listed.unlink()
    else:
        listed.write_text(content)
    with pytest.raises(UserError, match=match):
        open_source(str(root / LISTS))


def test_the_years_folder_is_still_that_of_its_classes(tmp_path):
    root, _ = make_actions(tmp_path)
    with pytest.raises(UserError, match=r"has no ImageSets/Main/train\.txt"):
        open_source(str(root))


def extract(packed, out, net, runner=in_this_process, **changes):
    options = FeaturesOptions((str(net),), str(packed), str(out), **{"scales": (36, 48), **changes})
    return transfer.features(options, runner)


def test_image_and_box_tell_actions_that_the_image_leaves_open(actions, classifier, tmp_path):
    """Of two persons in an image the box tells whose action is asked for."""
    packed, persons = actions
    precision = {}
    for regions in (("image",), ("image", "box")):
        folder = extract(packed, tmp_path, classifier, regions=regions)
        found = FeatureFile(folder, "test.arrow").all()
        assert found.keys == tuple(expected(persons, "test"))
        assert found.features_NF.shape[1] == 512 * len(regions)
        fit = FitOptions(str(folder.local), train=("train", "val"), test=("test",), costs=(1.0, 100.0))
        result, _ = transfer.fit(fit)
        assert result["regions"] == list(regions)
        assert "accuracy" not in result
        precision[regions] = result["map_2010"]
    marks = [
        [person.marks.get(action, 0) for action in ACTIONS] for person in expected(persons, "test").values()
    ]
    marks_NK = np.array(marks)
    chance = 100 * np.mean((marks_NK == 1).sum(0) / (marks_NK != 0).sum(0))
    assert precision["image",] > chance
    assert precision["image", "box"] > precision["image",] + 5


def test_the_same_bits_on_one_and_two_processes(actions, classifier, tmp_path, monkeypatch):
    """And what is of the image alone, or of the box, is not computed again."""
    monkeypatch.setattr(scoring, "BLOCK", 8)
    packed, _ = actions
    with one_thread():
        extract(packed, tmp_path / "one", classifier, split=("val",), regions=("image", "box"))
    extract(packed, tmp_path / "two", classifier, in_two_processes, split=("val",), regions=("image", "box"))
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert len(one) == 2 * 2 * 3 + 1
    assert one == two

    def refuse(*_):
        raise AssertionError("called without a task")

    for regions in (("image",), ("box",)):
        extract(packed, tmp_path / "one", classifier, refuse, split=("val",), regions=regions)
