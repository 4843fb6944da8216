"""A net that is logged to MLflow as a model, twice, and what others read of it."""

import os
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from cli.errors import UserError
from tests.tracking.runs import DELIVERY_SECONDS, deliver_again, points, run_of
from vgg.net.architecture import Architecture
from vgg.net.initialise import initialise
from vgg.net.module import VGG
from vgg.recipes.registry import RECIPES
from vgg.tracking.tracker import Tracker
from vgg.weights.open_net import open_net
from vgg.weights.state import weights_sha256
from vgg.weights.trained_net import model_metadata

ARCHITECTURE = Architecture("A", classes=10, side=32, width=0.125)
CLASSES = [f"digit {k}" for k in range(10)]


@pytest.fixture
def net():
    net = VGG(ARCHITECTURE)
    initialise(net, "glorot", 0)
    return net


@pytest.fixture
def logged(server, info, tmp_path, net):
    """The client, the run and the model. The experiment is the test's own: a model is found by its weights."""
    info = replace(info, experiment=info.uid)
    recipe = asdict(RECIPES["digits"][1])
    recipe["model"]["width"] = 0.125
    about = {
        "recipe": recipe,
        "recipe_name": "digits",
        "seed": 3,
        "classes": CLASSES,
        "mean_rgb": [1.0, 2.0, 3.0],
    }
    tracker = Tracker(tmp_path, server.url, info)
    for step in (6, 7):
        tracker.metrics(step, {"val/top1_accuracy": step / 14})
    tracker.model(net.state_dict(), model_metadata(ARCHITECTURE, about), 7, {"val/top1_accuracy": 0.5})
    assert tracker.close("FINISHED", DELIVERY_SECONDS)
    deliver_again(tmp_path, server)
    client, run = run_of(server, info)
    (model,) = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    return client, run, model


def test_the_model_is_linked_to_its_run_and_its_data(logged):
    client, run, model = logged
    assert run.info.status == "FINISHED"
    assert points(client, run, "val/top1_accuracy") == [(6, 6 / 14), (7, 0.5)]
    assert model.name == "A-step-7"
    assert [(m.model_id, m.step) for m in run.outputs.model_outputs] == [(model.model_id, 7)]
    assert model.tags["mlflow.note.content"].startswith("Configuration **A**, recipe **digits**, trained on **")
    (point,) = model.metrics
    assert (point.key, point.value, point.step) == ("val/top1_accuracy", 0.5, 7)
    assert (point.dataset_name, point.dataset_digest) == ("digits", "d" * 36)


def test_the_model_loads_where_this_project_is_not_installed(logged, server, net, tmp_path):
    model_uri = f"models:/{logged[2].model_id}"
    images_BCHW = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "images.npy", images_BCHW.numpy())
    program = (
        "import mlflow, numpy as np, sys, torch\n"
        "net = mlflow.pytorch.load_model(sys.argv[1])\n"
        "shape = mlflow.models.get_model_info(sys.argv[1]).signature.inputs.inputs[0].shape\n"
        "assert shape == (-1, 3, 32, 32), shape\n"
        "with torch.no_grad(): np.save('scores.npy', net(torch.from_numpy(np.load('images.npy'))))\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, model_uri],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": server.url, "PYTHONPATH": ""},
        timeout=120,
        check=True,
    )
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "scores.npy")), net(images_BCHW))


def test_the_net_opens_by_its_run_and_by_its_model(logged, server, net, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    for reference in (f"runs:/{logged[1].info.run_id}", f"models:/{logged[2].model_id}"):
        found = open_net(reference)
        assert (found.architecture, found.seed, found.class_names) == (ARCHITECTURE, 3, tuple(CLASSES))
        assert (found.mean_rgb, found.recipe) == ((1.0, 2.0, 3.0), "digits (overridden)")
        assert found.weights_sha256 == weights_sha256(net.state_dict())


def test_a_model_whose_graph_is_missing_is_refused(logged, server, monkeypatch, tmp_path):
    """As where its upload was cut short: MLflow's answer is real, the folder that it downloads is empty."""
    import mlflow

    (tmp_path / "nothing").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", lambda *_: str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"models:/.* has no \.pt2 file"):
        open_net(f"models:/{logged[2].model_id}")
