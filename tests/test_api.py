"""The package in Python: `vgg.load`, what it opens, and the notebook that shows it."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import vgg
from cli.errors import UserError
from cluster.layout import Worker
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from tests.conftest import ROOT
from tests.photos import picture
from tests.processes import job
from vgg.recipes.registry import RECIPES
from vgg.training.loop import train

CLASSES = 7
SIZES = [(227, 301), (333, 230), (224, 224), (500, 256), (97, 260)]
"""Height and width of which several cut or round the longer side in another way than the nearest pixel."""


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """A run of six steps on the digits, and its result."""
    out = tmp_path_factory.mktemp("run")
    recipe = RECIPES["digits"][1]
    asked = replace(recipe, train=replace(recipe.train, steps=6))
    outcome = train(Worker(0, 1, 0, torch.device("cpu"), 1), job(digits, out, asked), lambda _: [])
    assert outcome.result is not None
    return out, outcome.result


def test_the_import_is_light_and_names_the_version():
    """Nothing heavy before it is used."""
    code = (
        "import sys, vgg; print(vgg.__version__, sorted({'torch', 'numpy', 'ray', 'PIL'} & set(sys.modules)))"
    )
    said = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    version = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if "version" in line)
    assert said.split() == [version.split('"')[1], "[]"]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vgg.nothing  # noqa: B018


def test_torchvisions_nets_score_as_by_torchvisions_own_pipeline(vgg11):
    """Its transforms from the PIL image on: resize, centre crop, [0, 1], mean and standard deviation."""
    theirs, file = vgg11
    images = [picture(*size, seed=seed) for seed, size in enumerate(SIZES)]
    preprocess = torchvision.models.VGG11_Weights.IMAGENET1K_V1.transforms()
    with torch.no_grad():
        expected_BK = theirs(torch.stack([preprocess(image) for image in images]))
    net = vgg.load(file)
    found_BK = net.scores(images)
    assert expected_BK.std(0).max() > 0.01
    torch.testing.assert_close(found_BK, expected_BK, rtol=0, atol=1e-4)
    assert net.class_names == tuple(f"class {k}" for k in range(CLASSES))


def test_a_run_is_right_as_often_as_its_validation_says(run, digits):
    out, result = run
    val_set = Shards(digits, read_manifest(digits), "val")
    images = [Image.open(io.BytesIO(bytes(val_set.encoded(i)))) for i in range(len(val_set))]
    net = vgg.load(str(out))
    best_B = [classes[0][0] for classes in net.predict(images, top=1)]
    right = sum(best == net.class_names[label] for best, label in zip(best_B, val_set.labels_N, strict=True))
    assert right == round(result["best"]["top1"] * 364)


def test_one_image_or_many_as_files_pil_or_arrays(run, tmp_path):
    net = vgg.load(run[0])
    photo = picture(50, 40)
    photo.save(tmp_path / "a.png")
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), photo, np.asarray(photo)]
    found_BK = net.posteriors(forms)
    assert found_BK.shape == (4, 10)
    np.testing.assert_allclose(found_BK, np.repeat(found_BK[:1], 4, axis=0), rtol=1e-5)
    np.testing.assert_allclose(net.posteriors(np.stack([np.asarray(photo)] * 2)), found_BK[:2], rtol=1e-5)
    ((name, probability), *_), *more = net.predict(photo)
    assert not more
    assert probability == pytest.approx(found_BK[0].max())
    assert name == net.class_names[found_BK[0].argmax()]
    assert net.posteriors([]).shape == (0, 10)


def test_features_are_the_outputs_of_the_layers(run):
    net = vgg.load(run[0])
    photo = picture(40, 40)
    seen: dict[str, torch.Tensor] = {}
    for layer in ("fc6", "fc7", "fc8"):
        net.module.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, output, layer=layer: seen.__setitem__(layer, output.clone())
        )
    with torch.no_grad():
        net.module(net.transform(photo)[None])
    expected = {"fc6": seen["fc6"].relu(), "fc7": seen["fc7"].relu(), "fc8": seen["fc8"]}
    for layer, expected_BF in expected.items():
        torch.testing.assert_close(net.features(photo, layer), expected_BF)
        assert net.features([], layer).shape == (0, expected_BF.shape[1])
    assert net.features(photo, "pool5").shape == (1, 128)
    with pytest.raises(ValueError, match="'fc9' is not one of pool5, fc6"):
        net.features(photo, "fc9")


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory):
    """torchvision's vgg16 at random weights, small by crops of 32 pixels, and as `load` opens it."""
    torch.manual_seed(1)
    net = torchvision.models.vgg16(num_classes=CLASSES).eval().requires_grad_(False)
    net.classifier[0] = torch.nn.Linear(512, 4096)
    file = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(net.state_dict(), file)
    return net, vgg.load(file)


HOOKS = {"conv1_1": 1, "conv1_2": 3, "pool1": 4, "conv3_3": 15, "conv5_3": 29, "pool5": 30}
"""Our layers -> places of torchvision's vgg16.features; of a convolution, that of its ReLU."""


class TestLayers:
    """`vgg.features` against forward hooks in torchvision's net, and what it refuses."""

    def hooked(self, theirs, images_BCHW):
        """The outputs at `HOOKS` of images as torchvision's Normalize leaves them."""
        seen: dict[str, torch.Tensor] = {}
        handles = [
            theirs.features[place].register_forward_hook(
                lambda _module, _inputs, output, name=name: seen.__setitem__(name, output.clone())
            )
            for name, place in HOOKS.items()
        ]
        theirs.features(images_BCHW)
        for handle in handles:
            handle.remove()
        return seen

    @pytest.mark.parametrize("values", ["pixels", "unit", "standardised"])
    def test_they_are_torchvisions_whatever_the_numbers_are(self, vgg16, values):
        theirs, ours = vgg16
        unit = torch.rand(2, 3, 96, 130, generator=torch.Generator().manual_seed(0))
        normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        images = {"pixels": 255 * unit, "unit": unit, "standardised": normalise(unit)}[values]
        expected = self.hooked(theirs, normalise(unit))
        found = vgg.features(images, tuple(HOOKS), net=ours, values=values)
        assert list(found) == list(HOOKS)
        for name, expected_BCHW in expected.items():
            assert expected_BCHW.std() > 1e-3
            torch.testing.assert_close(found[name], expected_BCHW, rtol=1e-4, atol=1e-5)

    def test_files_go_through_torchvisions_own_preprocessing(self, vgg16, tmp_path):
        theirs, ours = vgg16
        picture(300, 260).save(tmp_path / "a.png")
        preprocess = torchvision.transforms._presets.ImageClassification(crop_size=32)
        expected = self.hooked(theirs, preprocess(picture(300, 260))[None])
        found = vgg.features(tmp_path / "a.png", net=ours)
        assert list(found) == ["conv1_2", "conv3_3"]
        for name in found:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-4)

    def test_gradients_reach_the_images(self, vgg16):
        """As a perceptual loss needs them, equal to torchvision's."""
        theirs, ours = vgg16
        images = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0), requires_grad=True)
        vgg.features(images, ["conv2_2"], net=ours, values="standardised")["conv2_2"].square().sum().backward()
        found = images.grad
        assert found is not None
        (expected,) = torch.autograd.grad(theirs.features[:9](images).square().sum(), images)
        assert expected.norm() > 1e-2
        assert (found - expected).norm() < 0.02 * expected.norm()  # a unit at 0 may round to either side

    def test_fully_connected_layers_have_a_vector_for_every_position(self, run):
        net = vgg.load(run[0])
        images = 255 * torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
        found = vgg.features(images, ["fc7", "fc8"], net=net, values="pixels")
        mean_C11 = torch.tensor(net.net.mean_rgb)[:, None, None]
        torch.testing.assert_close(found["fc8"], net.module(images - mean_C11))
        assert found["fc7"].shape[2:] == found["fc8"].shape[2:] == (2, 3)
        corner = vgg.features(images[:, :, :32, :32], ["pool1", "fc7"], net=net, values="pixels")
        assert corner["fc7"].shape[2:] == (1, 1)
        eight_bit = images.to(torch.uint8)
        torch.testing.assert_close(
            vgg.features(eight_bit, ["pool1"], net=net),
            vgg.features(eight_bit.float(), ["pool1"], net=net, values="pixels"),
        )

    def test_mistakes(self, run, tmp_path, monkeypatch):
        net, images = vgg.load(run[0]), torch.rand(1, 3, 32, 32)
        mistakes: list[tuple[tuple[Any, list[str], dict[str, Any]], str]] = [
            ((images, ["conv1_2"], {}), "say values="),
            ((images, ["conv9_9"], {"values": "unit"}), "'conv9_9' is not one of conv1_1"),
            ((images[0], ["conv1_1"], {"values": "unit"}), r"\[B, 3, H, W\], not \[3, 32, 32\]"),
            ((images[:, :, :20], ["fc6"], {"values": "unit"}), "20x32 pixels is too small for layer"),
            ((picture(40, 40), ["conv1_1"], {"values": "unit"}), "values are of tensors"),
        ]
        for (given, layers, named), match in mistakes:
            with pytest.raises(ValueError, match=match):
                vgg.features(given, layers, net=net, **named)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        with pytest.raises(UserError, match=r"vgg16 is not on this machine .*vgg16-397923af\.pth"):
            vgg.features(images, values="unit")


def test_what_is_no_image_is_told(run, tmp_path):
    net = vgg.load(run[0])
    (tmp_path / "notes.png").write_text("no image")
    with pytest.raises(UserError, match=r"notes\.png"):
        net.predict(tmp_path / "notes.png")
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], not float64"):
        net.predict(np.zeros((32, 32, 3)))
    with pytest.raises(UserError):
        vgg.load(tmp_path / "nowhere")


def test_the_notebook_runs(ray_cluster, monkeypatch, capsys):
    """Every code cell, in order, in one namespace."""
    notebook = json.loads((ROOT / "docs" / "own-photographs.ipynb").read_text())
    assert notebook["nbformat"] == 4
    monkeypatch.chdir(ROOT)
    for key, value in ray_cluster.head.client_environment().items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    namespace: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), namespace)
    said = capsys.readouterr().out
    assert "best validation: top-1" in said
    assert namespace["accuracy"] > 0.8
    assert not namespace["work"].exists()
