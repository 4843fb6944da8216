"""Tracking against a real MLflow server, which goes away at the start, in the middle and at the end."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from tests.conftest import ROOT
from tests.mlflow_server import MLflowServer
from vgg.initialise import initialise
from vgg.model import VGG, Architecture
from vgg.track import RunInfo, Tracker

DELIVERY_SECONDS = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with MLflowServer(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


@pytest.fixture
def info(request):
    return RunInfo(
        uid=f"uid-{request.node.name}",
        experiment="tests",
        name="a run",
        tags={"kind": "train", "recipe": "digits"},
        params={"optim.lr": "0.01", "long": "x" * 10_000},
        data_name="digits",
        data_digest="d" * 64,
        data_source="/data/digits",
    )


def run_of(server, info):
    """The one run of this uid."""
    client = MlflowClient(server.url)
    experiment = client.get_experiment_by_name(info.experiment)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`vgg.uid` = '{info.uid}'")
    return client, run


def points(client, run, key):
    return [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, key)]


def test_everything_arrives(server, info, tmp_path):
    from vgg import pictures

    tracker = Tracker(tmp_path, server.url, info)
    for step in range(1, 1501):  # more than a request may hold
        tracker.metrics(step, {"train/loss": 1 / step})
    tracker.figure("pictures/curves.png", lambda: pictures.curves([3.0, 2.0], []))
    tracker.text("result.json", "{}")
    tracker.tags({"more": "yes"})
    assert tracker.close("FINISHED", DELIVERY_SECONDS)
    client, run = run_of(server, info)
    assert points(client, run, "train/loss") == [(step, 1 / step) for step in range(1, 1501)]
    assert run.info.status == "FINISHED"
    assert run.data.params["optim.lr"] == "0.01"
    assert run.data.params["long"] == "x" * 6000
    assert (run.data.tags["kind"], run.data.tags["more"]) == ("train", "yes")
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("digits", "d" * 36)
    folder = client.download_artifacts(run.info.run_id, "", str(tmp_path))
    assert (tmp_path / "result.json").read_text() == "{}"
    assert (tmp_path / "pictures" / "curves.png").read_bytes().startswith(b"\x89PNG"), folder
    assert tracker.sender.url == f"{server.url}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"


def test_a_server_that_is_killed_and_comes_back_gets_every_point_once(server, info, tmp_path):
    tracker = Tracker(tmp_path, server.url, info)
    slowest = 0.0
    for step in range(300):
        if step == 50:
            server.kill()
        began = time.perf_counter()
        tracker.metrics(step, {"train/loss": float(step)})
        slowest = max(slowest, time.perf_counter() - began)
        time.sleep(0.01)
    server.start()
    assert tracker.close("FINISHED", DELIVERY_SECONDS)
    client, run = run_of(server, info)
    assert points(client, run, "train/loss") == [(step, float(step)) for step in range(300)]
    assert slowest < 0.5, "the caller was held while the server was away"


def test_a_server_that_is_away_leaves_a_spool_that_is_delivered_later(server, info, tmp_path):
    server.kill()
    try:
        tracker = Tracker(tmp_path, server.url, info)
        for step in range(20):
            tracker.metrics(step, {"train/loss": float(step)})
        tracker.text("notes.txt", "kept")
        began = time.monotonic()
        assert not tracker.close("FINISHED", 2)
        assert time.monotonic() - began < 10
    finally:
        server.start()
    command = [sys.executable, "-m", "vgg.track", str(tmp_path), "--uri", server.url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    client, run = run_of(server, info)
    assert points(client, run, "train/loss") == [(step, float(step)) for step in range(20)]
    assert run.info.status == "FINISHED"
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["notes.txt"]


@pytest.mark.parametrize("spool", ["kept", "lost"])
def test_a_training_taken_up_again_stays_one_run_without_doubles(server, info, tmp_path, spool):
    """It crashed after step 9 and goes on from a checkpoint of step 5, on another layout."""
    first = Tracker(tmp_path / "kept", server.url, info)
    for step in range(10):
        first.metrics(step, {"train/loss": float(step)})
    assert first.close("FAILED", DELIVERY_SECONDS)
    changed = replace(info, params={**info.params, "optim.lr": "0.02"})
    second = Tracker(tmp_path / spool, server.url, changed)
    for step in range(5, 15):
        second.metrics(step, {"train/loss": float(step)})
    assert second.close("FINISHED", DELIVERY_SECONDS)
    client, run = run_of(server, info)
    assert points(client, run, "train/loss") == [(step, float(step)) for step in range(15)]
    assert run.data.params["optim.lr"] == "0.01"
    assert run.data.tags["resumed.params"] == "optim.lr=0.02"
    assert run.info.status == "FINISHED"


def test_what_the_server_refuses_does_not_hold_up_the_rest(server, info, tmp_path, capsys):
    tracker = Tracker(tmp_path, server.url, info)
    tracker.tags({"bad\nkey": "x"})
    tracker.metrics(1, {"train/loss": 1.0})
    assert tracker.close("FINISHED", DELIVERY_SECONDS)
    client, run = run_of(server, info)
    assert points(client, run, "train/loss") == [(1, 1.0)]
    assert "the server refused a tags" in capsys.readouterr().err
    (kept,) = (tmp_path / "rejected.jsonl").read_text().splitlines()
    assert json.loads(kept)["what"] == "a tags"


def test_the_best_net_comes_back_from_the_server(server, info, tmp_path, monkeypatch):
    architecture = Architecture("A", classes=10, side=32, width=0.125)
    net = VGG(architecture)
    initialise(net, "glorot", 0)
    tracker = Tracker(tmp_path, server.url, info)
    tracker.model(architecture, net.state_dict(), 7, {"val/top1_accuracy": 0.5})
    assert tracker.close("FINISHED", DELIVERY_SECONDS)
    _, run = run_of(server, info)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    mlflow.set_tracking_uri(server.url)
    (logged,) = mlflow.search_logged_models([run.info.experiment_id], output_format="list")
    assert logged.name == "best"
    assert logged.source_run_id == run.info.run_id
    assert {m.key: (m.value, m.step) for m in logged.metrics} == {"val/top1_accuracy": (0.5, 7)}
    images_BCHW = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = mlflow.pytorch.load_model(f"models:/{logged.model_id}")
    with torch.no_grad():
        torch.testing.assert_close(found(images_BCHW), net(images_BCHW))
    signature = mlflow.models.get_model_info(f"models:/{logged.model_id}").signature
    assert signature.inputs.inputs[0].shape == (-1, 3, 32, 32)


def test_a_folder_that_is_no_spool(tmp_path):
    command = [sys.executable, "-m", "vgg.track", str(tmp_path), "--uri", "http://127.0.0.1:9"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "is not a spool" in done.stderr
