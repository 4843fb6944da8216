"""A hold-out of the training images: its own split, a share of each class, by which trainings choose."""

import io
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cli.errors import UserError
from pipelines.pack import main, pack
from pipelines.packing.options import PackOptions
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.splits import training_splits
from pipelines.sources.held_out import with_holdout
from pipelines.sources.recognise import open_source
from tests.pipelines.test_pack import encoded, picture
from tests.pipelines.test_sources import TINY, lay


def folder(root, train):
    """Two classes; `train`: images of each. Every image has one colour of its own, so PNG keeps it."""
    files = {}
    for split, counts in (("train", train), ("val", {"a": 2, "b": 2})):
        for label, count in counts.items():
            for i in range(count):
                colour = (10 * i, 200 if label == "a" else 40, 5 if split == "val" else 90)
                file = io.BytesIO()
                Image.new("RGB", (8, 8), colour).save(file, "PNG")
                files[f"{split}/{label}/{i}.png"] = file.getvalue()
    return lay(root, files)


def test_each_class_gives_its_share_and_nothing_else_changes(tmp_path):
    source = open_source(str(folder(tmp_path, {"a": 20, "b": 9})))
    divided = with_holdout(source, 0.25)
    apart = [file for file in divided.files if file.split == "holdout"]
    assert Counter(file.label for file in apart) == {"a": 5, "b": 2}
    before = {(file.key, file.label): file for file in source.files}
    assert len(divided.files) == len(source.files)
    for file in divided.files:
        was = before[file.key, file.label]
        assert file == (replace(was, split="holdout") if file in apart else was)
    assert {file.key.split("/")[0] for file in apart} == {"train"}
    assert with_holdout(source, 0.25).files == divided.files, "by names alone"
    assert with_holdout(source, 0.0) is source


def test_tiny_imagenets_layout_is_divided_too(tmp_path):
    source = with_holdout(open_source(str(lay(tmp_path, TINY))), 0.5)
    train = Counter(file.label for file in open_source(str(tmp_path)).files if file.split == "train")
    apart = Counter(file.label for file in source.files if file.split == "holdout")
    assert apart == {label: max(1, round(count / 2)) for label, count in train.items() if count > 1}
    assert apart, "a class has several images there"


@pytest.mark.parametrize("share", [1, -0.1, float("nan")])
def test_a_share_out_of_range(tmp_path, share):
    source = folder(tmp_path / "in", {"a": 4, "b": 4})
    with pytest.raises(UserError, match="--holdout-share"):
        pack(PackOptions(str(source), tmp_path / "out", holdout_share=share))
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_divided(tmp_path):
    single = open_source(str(folder(tmp_path / "single", {"a": 1, "b": 1})))
    with pytest.raises(UserError, match="no class has a training image to spare"):
        with_holdout(single, 0.5)
    lay(tmp_path / "single", {"holdout/a/1.png": b"x"})
    with pytest.raises(UserError, match="has a split holdout already"):
        with_holdout(open_source(str(tmp_path / "single")), 0.5)
    with pytest.raises(UserError, match="may be of several"):
        with_holdout(replace(single, several_labels=True), 0.5)


def test_packed_apart_the_statistics_are_of_what_is_trained_on(tmp_path, capsys, monkeypatch):
    source, out = folder(tmp_path / "in", {"a": 10, "b": 10}), tmp_path / "out"
    flags = ["--workers", "1", "--holdout-share", "0.3"]
    monkeypatch.setattr(sys, "argv", ["pack", str(source), str(out), *flags])
    main()
    told = " ".join(capsys.readouterr().out.split())
    assert "kept apart from 20 training images as the split holdout: 6, 30% of each class (3 a class)" in told
    manifest = read_manifest(out)
    images = {name: split.images for name, split in manifest.splits.items()}
    assert images == {"holdout": 6, "train": 14, "val": 4}
    assert training_splits(manifest) == ("train", "holdout")
    splits = {name: Shards(out, manifest, name) for name in manifest.splits}
    keys = {name: {shards.key(i) for i in range(len(shards))} for name, shards in splits.items()}
    assert not keys["train"] & keys["holdout"]
    pixels = [np.asarray(Image.open(source / key)) for key in keys["train"]]
    np.testing.assert_allclose(manifest.mean_rgb, np.mean(pixels, (0, 1, 2)), rtol=1e-9)


def test_a_holdout_of_broken_images_alone_is_not_packed(tmp_path):
    source = folder(tmp_path / "in", {"a": 6, "b": 6})
    for file in with_holdout(open_source(str(source)), 0.2).files:
        if file.split == "holdout":
            (source / file.key).write_bytes(encoded(picture(0))[:60])
    with pytest.raises(UserError, match="no image of split holdout can be read"):
        pack(PackOptions(str(source), tmp_path / "out", workers=1, holdout_share=0.2))


def test_without_it_trainings_validate_on_val(digits):
    assert training_splits(read_manifest(digits)) == ("train", "val")
