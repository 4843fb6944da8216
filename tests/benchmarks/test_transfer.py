"""The comparison of descriptors, small, on the made data set with boxes."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.preprocessing import normalize

from benchmarks import transfer as comparison
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from pipelines.storage.folder import Folder
from tests.entry_point import call
from tests.runners import in_this_process
from vgg import transfer
from vgg.transferring.feature_file import FeatureFile
from vgg.weights.open_net import open_net


def test_features_are_those_of_the_command(boxed, classifier, tmp_path):
    asked = transfer.FeaturesOptions((str(classifier),), str(boxed), str(tmp_path))
    folder = transfer.features(asked, in_this_process)
    saved = FeatureFile(Folder(folder.uri), "val.arrow").all().features_NF
    found = comparison.features(open_net(str(classifier)), str(boxed), "val")
    np.testing.assert_array_equal(found, saved)


def test_pixels_are_pils(boxed, classifier):
    """Of a square cut out of the middle of the rescaled image, less the mean, divided by the norm."""
    net, shards = open_net(str(classifier)), Shards(boxed, read_manifest(boxed), "val")
    found = comparison.pixels(net, str(boxed), "val")
    for i in range(len(shards)):
        image = Image.open(io.BytesIO(shards.encoded(i).tobytes())).convert("RGB")
        width, height = (int(9 * length / min(image.size) + 0.5) for length in image.size)
        small_HWC = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float64)
        top, left = (height - 9) // 2, (width - 9) // 2
        row = (small_HWC[top : top + 9, left : left + 9] - net.mean_rgb).transpose(2, 0, 1).reshape(1, -1)
        np.testing.assert_allclose(found[i], normalize(row)[0], atol=2e-3)


def test_an_untrained_net_has_the_architecture_and_none_of_the_weights(classifier):
    net = open_net(str(classifier))
    other = comparison.untrained(net, 1)
    assert other.architecture == net.architecture
    assert other.weights_sha256 != net.weights_sha256
    for name in ("conv1_1.weight", "fc7.weight"):
        assert other.weights[name].shape == net.weights[name].shape
        assert not torch.allclose(other.weights[name], net.weights[name])


def test_three_descriptors_are_written(classifier, boxed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(comparison, "COSTS", (1.0, 10.0))
    out = tmp_path / "transfer.json"
    flags = [classifier, f"--data={boxed}", f"--out={out}"]
    code, said, err = call(comparison.main, monkeypatch, capsys, *flags)
    assert code == 0, err
    found = json.loads(out.read_text())["descriptors"]
    assert list(found) == ["pixels", "untrained net", "trained net"]
    assert found["pixels"]["numbers"] == 3 * 9 * 9, "a quarter of 36"
    for fit in found.values():
        assert (fit["trained_on"], fit["images"]) == (70, 21)
        assert [cost for cost, _ in fit["tried"]] == [1.0, 10.0]
        assert fit["accuracy"] == pytest.approx(100 * fit["right"] / 21)
        assert fit["accuracy_interval"][0] <= fit["accuracy"] <= fit["accuracy_interval"][1]
    assert "untrained net" in said
