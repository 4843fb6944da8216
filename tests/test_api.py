"""The package in Python: `vgg.load`, what it opens, and the notebook that shows it."""

import io
import json
import subprocess
import sys
from dataclasses import replace

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
