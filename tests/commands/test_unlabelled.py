"""Tiny ImageNet's test images, which have no labels: packed, shown and predicted, never tested or learnt."""

from functools import partial

import numpy as np
import pytest
from rich.console import Console

from pipelines.inspect import InspectOptions, inspect
from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.schema import UNLABELLED
from tests import entry_point
from tests.commands.test_evaluate import save_net
from tests.photos import picture
from vgg import evaluate, predict

WNIDS = "n1", "n2"
TESTED = 11


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Tiny ImageNet's layout with two classes of two images."""
    root = tmp_path_factory.mktemp("tiny")
    (root / "wnids.txt").write_text("n2\nn1\n")
    (root / "words.txt").write_text("n1\tone\nn2\ttwo\n")
    images: dict[str, int] = {}
    for number, wnid in enumerate(WNIDS):
        names = [f"{wnid}_{i}.JPEG" for i in range(2)]
        images |= {f"train/{wnid}/images/{name}": number * 10 + i for i, name in enumerate(names)}
        boxes = root / f"train/{wnid}/{wnid}_boxes.txt"
        boxes.parent.mkdir(parents=True)
        boxes.write_text("".join(f"{name}\t1\t2\t30\t40\n" for name in names))
    images |= {"val/images/val_0.JPEG": 30, **{f"test/images/test_{i}.JPEG": 40 + i for i in range(TESTED)}}
    for name, seed in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(64, 64, seed=seed).save(root / name, "JPEG")
    (root / "val/val_annotations.txt").write_text("val_0.JPEG\tn2\t1\t2\t30\t40\n")
    return root


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "tiny"
    pack(PackOptions(str(source), out, workers=1))
    return out


@pytest.fixture(scope="module")
def net(packed, tmp_path_factory):
    return save_net(tmp_path_factory.mktemp("run"), packed, seed=3, class_ids=list(WNIDS))


def test_the_split_is_packed_and_shown(packed, tmp_path):
    manifest = read_manifest(packed)
    shards = Shards(packed, manifest, "test", labelled=False)
    assert shards.labels_N.tolist() == [UNLABELLED] * TESTED
    assert np.isnan(shards.own_boxes().targets_N4).all()
    with (tmp_path / "shown.txt").open("w") as text:
        inspect(InspectOptions(packed, split="test"), Console(file=text, width=200))
    assert f"│ test  │     {TESTED}" in (tmp_path / "shown.txt").read_text()


def test_of_a_selection_of_classes_there_is_no_test_split(source, tmp_path):
    pack(PackOptions(str(source), tmp_path / "one", classes=("n2",), workers=1))
    assert sorted(read_manifest(tmp_path / "one").splits) == ["train", "val"]


def test_the_submission_is_that_of_the_files(source, packed, net, monkeypatch, capsys, tmp_path):
    call = partial(entry_point.call, predict.main, monkeypatch, capsys)
    lines, tables = [], []
    for images in (packed, source / "test" / "images"):
        flags = ["--picture", "None", "--submission", tmp_path / "lines.txt", "--csv", tmp_path / "best.csv"]
        code, _, err = call(images, "--net", net, *flags)
        assert code == 0, err
        lines.append((tmp_path / "lines.txt").read_text())
        tables.append([row.split(",")[1:] for row in (tmp_path / "best.csv").read_text().splitlines()])
    assert lines[0] == lines[1]
    assert tables[0] == tables[1]
    assert sorted(line.split()[0] for line in lines[0].splitlines()) == sorted(
        f"test_{i}.JPEG" for i in range(TESTED)
    )
    assert {line.split()[1] for line in lines[0].splitlines()} <= set(WNIDS)


def test_another_split_can_be_predicted_and_one_that_is_not_there_is_named(packed, net, monkeypatch, capsys):
    call = partial(entry_point.call, predict.main, monkeypatch, capsys)
    code, out, err = call(packed, "--net", net, "--picture", "None", "--split", "val")
    assert code == 0, err
    assert "val/images/val_0.JPEG" in out
    code, _, err = call(packed, "--net", net, "--picture", "None", "--split", "other")
    assert code == 2
    assert "no split 'other'" in err


def test_it_cannot_be_tested(packed, net, monkeypatch, capsys):
    code, _, err = entry_point.call(
        evaluate.main, monkeypatch, capsys, net, "--data", packed, "--split", "test"
    )
    assert (code, err.count("\n")) == (2, 1)
    assert "split test: its images have no labels" in err
