"""Tracking against a real MLflow server, which goes away at the start, in the middle and at the end."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from tests.conftest import ROOT
from vgg.net.architecture import Architecture
from vgg.net.initialise import initialise
from vgg.net.module import VGG
from vgg.pictures.curves import training_curves
from vgg.recipes.registry import RECIPES
from vgg.track import main
from vgg.tracking.records import RunInfo
from vgg.tracking.sender import Sender
from vgg.tracking.spool import Spool
from vgg.tracking.tracker import Tracker
from vgg.weights.open_net import open_net
from vgg.weights.state import weights_sha256
from vgg.weights.trained_net import model_metadata

DELIVERY_SECONDS = 60


@pytest.fixture(scope="module")
def server(mlflow_server):
    return mlflow_server


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
        data_context="training",
        started=1_700_000_000_000,
    )


def run_of(server, info):
    """The one run of this uid."""
    client = MlflowClient(server.url)
    experiment = client.get_experiment_by_name(info.experiment)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`vgg.uid` = '{info.uid}'")
    return client, run


def deliver_again(folder, server):
    """As if nothing had been remembered of what was delivered."""
    spool = Spool(folder)
    assert spool.claim()
    spool.delivered(0)
    spool.release()
    sender = Sender(Spool(folder), server.url)
    sender.finish.set()
    sender.run(DELIVERY_SECONDS)
    assert sender.done


def points(client, run, key):
    return [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, key)]


def test_everything_arrives(server, info, tmp_path):

    tracker = Tracker(tmp_path, server.url, info)
    for step in range(1, 1501):  # more than a request may hold
        tracker.metrics(step, {"train/loss": 1 / step})
    tracker.figure("pictures/curves.png", lambda: training_curves([3.0, 2.0], []))
    tracker.text("result.json", "{}")
    tracker.tags({"more": "yes"})
    assert tracker.close("FINISHED", DELIVERY_SECONDS)
    client, run = run_of(server, info)
    assert points(client, run, "train/loss") == [(step, 1 / step) for step in range(1, 1501)]
    assert (run.info.status, run.info.start_time) == ("FINISHED", 1_700_000_000_000)
    assert run.data.params["optim.lr"] == "0.01"
    assert run.data.params["long"] == "x" * 6000
    assert (run.data.tags["kind"], run.data.tags["more"]) == ("train", "yes")
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("digits", "d" * 36)
    folder = client.download_artifacts(run.info.run_id, "", str(tmp_path))
    assert (tmp_path / "result.json").read_text() == "{}"
    assert (tmp_path / "pictures" / "curves.png").read_bytes().startswith(b"\x89PNG"), folder
    assert tracker.sender.url == f"{server.url}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"


def test_a_server_that_goes_away_in_the_middle_at_the_start_and_at_the_end(server, info, tmp_path):
    """One outage: `middle` goes on through it, `start` begins in it and `end` begins and ends in it."""
    infos = {name: replace(info, uid=f"{info.uid}-{name}") for name in ("middle", "start", "end")}
    trackers = {"middle": Tracker(tmp_path / "middle", server.url, infos["middle"])}
    for step in range(1000):
        if step == 50:
            server.kill()
            began = time.monotonic()
        trackers["middle"].metrics(step, {"train/loss": float(step)})
    try:
        for name in ("start", "end"):
            trackers[name] = Tracker(tmp_path / name, server.url, infos[name])
            for step in range(1000):
                trackers[name].metrics(step, {"train/loss": float(step)})
            trackers[name].text("notes.txt", "kept")
        assert time.monotonic() - began < 5, "the caller was held while the server was away"
        began = time.monotonic()
        assert not trackers["end"].close("FINISHED", 2)
        assert time.monotonic() - began < 4
    finally:
        server.start()
    assert trackers["middle"].close("FINISHED", DELIVERY_SECONDS)
    assert trackers["start"].close("FINISHED", DELIVERY_SECONDS)
    command = [sys.executable, "-m", "vgg.track", str(tmp_path / "end"), "--uri", server.url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    for name in trackers:
        client, run = run_of(server, infos[name])
        assert points(client, run, "train/loss") == [(step, float(step)) for step in range(1000)]
        assert run.info.status == "FINISHED"
        assert name == "middle" or [f.path for f in client.list_artifacts(run.info.run_id)] == ["notes.txt"]


def test_a_server_that_takes_calls_and_never_answers_does_not_hold_the_end_up(info, tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        tracker = Tracker(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", info)
        began = time.monotonic()
        assert not tracker.close("FINISHED", 1)
        assert time.monotonic() - began < 3


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


def test_a_tag_longer_than_mlflow_takes_is_cut(server, info, tmp_path):
    """The many parameters of another recipe, told as one tag."""
    for uri_folder, letter in (("first", "x"), ("second", "y")):
        params = {f"setting{i}": letter * 3000 for i in range(5)}
        tracker = Tracker(tmp_path / uri_folder, server.url, replace(info, params=params))
        assert tracker.close("FINISHED", DELIVERY_SECONDS)
    _, run = run_of(server, info)
    assert run.data.tags["resumed.params"].startswith("setting0=yyy")
    assert not (tmp_path / "second" / "rejected.jsonl").exists()


def test_a_slow_store_is_waited_for(server, info, tmp_path):
    """An answer to an upload may take longer than any other answer: the time limit there is one second."""
    Tracker(tmp_path, "http://127.0.0.1:9", info).close("FINISHED", 0)
    spool = Spool(tmp_path)
    file = spool.new_file(".txt")
    file.write_text("large")
    spool.append({"kind": "artifact", "path": "notes.txt", "file": file.name})
    with slow_uploads(server.url, seconds=3) as uri:
        command = [sys.executable, "-m", "vgg.track", str(tmp_path), "--uri", uri, "--patience-seconds", "5"]
        env = {**os.environ, "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 0, done.stderr
    client, run = run_of(server, info)
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["notes.txt"]


@contextmanager
def slow_uploads(upstream, seconds):
    """A proxy before the server that answers every upload so much later."""

    class Proxy(BaseHTTPRequestHandler):
        def forward(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {key: value for key, value in self.headers.items() if key.lower() != "host"}
            request = urllib.request.Request(upstream + self.path, body or None, headers, method=self.command)
            try:
                answer = urllib.request.urlopen(request, timeout=30)
            except urllib.error.HTTPError as error:
                answer = error
            content = answer.read()
            if self.command == "PUT":
                time.sleep(seconds)
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = forward

        def log_message(self, *_):
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}"
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()


def test_a_training_that_is_killed_and_taken_up_again_loses_nothing(server, info, tmp_path):
    """Killed while it wrote: half a line is left, and a claim on the spool that the system lifts."""
    program = (
        "import json, os, signal, sys; from pathlib import Path\n"
        "from vgg.tracking.records import RunInfo; from vgg.tracking.tracker import Tracker\n"
        "info = RunInfo(**json.loads(sys.argv[3]))\n"
        "tracker = Tracker(Path(sys.argv[1]), sys.argv[2], info)\n"
        "for step in range(100): tracker.metrics(step, {'train/loss': float(step)})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", program, str(tmp_path), server.url, json.dumps(asdict(info))]
    killed = subprocess.run(command, cwd=ROOT, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"kind": "metrics", "step": 100, "ti')
    tracker = Tracker(tmp_path, server.url, info)
    for step in range(90, 120):
        tracker.metrics(step, {"train/loss": float(step)})
    assert tracker.close("FINISHED", DELIVERY_SECONDS)
    client, run = run_of(server, info)
    assert points(client, run, "train/loss") == [(step, float(step)) for step in range(120)]
    (kept,) = (tmp_path / "rejected.jsonl").read_text().splitlines()
    assert json.loads(kept)["event"]["line"].startswith('{"kind": "metrics", "step": 100, "ti')


def test_what_the_server_refuses_is_kept_and_holds_nothing_up(server, info, tmp_path, capsys):
    tracker = Tracker(tmp_path, server.url, info)
    tracker.tags({"bad\nkey": "x"})
    for step in range(20):
        tracker.metrics(step, {"train/loss": float(step), **({"bad\nkey": 7.0} if step == 13 else {})})
    assert tracker.close("FINISHED", DELIVERY_SECONDS)
    client, run = run_of(server, info)
    assert points(client, run, "train/loss") == [(step, float(step)) for step in range(20)]
    assert "not taken: tags" in capsys.readouterr().err
    tags, point = [json.loads(line)["event"] for line in (tmp_path / "rejected.jsonl").open()]
    assert tags["values"] == {"bad\nkey": "x"}
    assert (point["step"], point["values"]) == (13, {"bad\nkey": 7.0})


def test_a_run_that_cannot_be_made_is_not_called_delivered(server, info, tmp_path, capsys):
    client = MlflowClient(server.url)
    client.delete_experiment(client.create_experiment("deleted"))
    tracker = Tracker(tmp_path, server.url, replace(info, experiment="deleted"))
    assert not tracker.close("FINISHED", 5)
    assert "it refuses the run" in capsys.readouterr().err


def test_a_server_that_forgot_the_run_is_told_all_again(server, info, tmp_path):
    first = Tracker(tmp_path, server.url, info)
    first.metrics(1, {"train/loss": 1.0})
    assert first.close("FAILED", DELIVERY_SECONDS)
    client, run = run_of(server, info)
    client.delete_run(run.info.run_id)
    second = Tracker(tmp_path, server.url, info)
    second.metrics(2, {"train/loss": 2.0})
    assert second.close("FINISHED", DELIVERY_SECONDS)
    client, run = run_of(server, info)
    assert points(client, run, "train/loss") == [(1, 1.0), (2, 2.0)]


def test_one_delivers_at_a_time(tmp_path):
    first, second = Spool(tmp_path), Spool(tmp_path)
    assert first.claim()
    assert not second.claim()
    first.release()
    assert second.claim()


def test_the_best_net_comes_back_from_the_server(server, info, tmp_path, monkeypatch):
    architecture = Architecture("A", classes=10, side=32, width=0.125)
    net = VGG(architecture)
    initialise(net, "glorot", 0)
    tracker = Tracker(tmp_path, server.url, info)
    for step in (6, 7):
        tracker.metrics(step, {"val/top1_accuracy": step / 14})
    recipe = asdict(RECIPES["digits"][1])
    recipe["model"]["width"] = 0.125
    names = [f"digit {k}" for k in range(10)]
    about = {
        "recipe": recipe,
        "recipe_name": "digits",
        "seed": 3,
        "classes": names,
        "mean_rgb": [1.0, 2.0, 3.0],
    }
    tracker.model(net.state_dict(), model_metadata(architecture, about), 7, {"val/top1_accuracy": 0.5})
    assert tracker.close("FINISHED", DELIVERY_SECONDS)
    deliver_again(tmp_path, server)
    client, run = run_of(server, info)
    assert run.info.status == "FINISHED"
    assert points(client, run, "val/top1_accuracy") == [(6, 6 / 14), (7, 0.5)]
    (logged,) = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    assert logged.name == "best"
    assert [(m.model_id, m.step) for m in run.outputs.model_outputs] == [(logged.model_id, 7)]
    (point,) = logged.metrics
    assert (point.key, point.value, point.step) == ("val/top1_accuracy", 0.5, 7)
    assert (point.dataset_name, point.dataset_digest) == ("digits", "d" * 36)
    images_BCHW = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "images.npy", images_BCHW.numpy())
    program = (
        "import mlflow, numpy as np, sys, torch\n"
        "net = mlflow.pytorch.load_model(sys.argv[1])\n"
        "shape = mlflow.models.get_model_info(sys.argv[1]).signature.inputs.inputs[0].shape\n"
        "assert shape == (-1, 3, 32, 32), shape\n"
        "with torch.no_grad(): np.save('scores.npy', net(torch.from_numpy(np.load('images.npy'))))\n"
    )
    subprocess.run(  # where this project is not installed
        [sys.executable, "-c", program, f"models:/{logged.model_id}"],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": server.url, "PYTHONPATH": ""},
        timeout=120,
        check=True,
    )
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "scores.npy")), net(images_BCHW))

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    for reference in (f"runs:/{run.info.run_id}", f"models:/{logged.model_id}"):
        found = open_net(reference)
        assert (found.architecture, found.seed, found.class_names) == (architecture, 3, tuple(names))
        assert (found.mean_rgb, found.recipe) == ((1.0, 2.0, 3.0), "digits (overridden)")
        assert found.weights_sha256 == weights_sha256(net.state_dict())


def test_a_folder_that_is_no_spool(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vgg.track", str(tmp_path), "--uri", "http://127.0.0.1:9"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "is not a spool" in capsys.readouterr().err


def test_a_server_that_stays_away_is_given_up(info, tmp_path, monkeypatch, capsys):
    Tracker(tmp_path, "http://127.0.0.1:9", info).close("FINISHED", 0)
    arguments = [str(tmp_path), "--uri", "http://127.0.0.1:9", "--patience-seconds", "0"]
    monkeypatch.setattr(sys, "argv", ["vgg.track", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert "gave up" in capsys.readouterr().err
