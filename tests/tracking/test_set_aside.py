"""An event that cannot be delivered is kept with its true reason; those before and behind it are delivered."""

import json
import math
import sys
from contextlib import contextmanager
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch

from tests.tracking.runs import DELIVERY_SECONDS, deliver_again, points, run_of
from vgg import track
from vgg.tracking.sender import Sender
from vgg.tracking.spool import Spool
from vgg.tracking.tracker import Tracker
from vgg.weights.state import weights_sha256

UNKNOWN = {"architecture": {"configuration": "Z", "classes": 10, "side": 32, "width": 1.0}}


def metric(step, value=1.0):
    return {"kind": "metrics", "step": step, "time": 1_700_000_000_000 + step, "values": {"loss": value}}


def deliver(server_url, info, folder, events, files=()):
    """Deliver a spool with these events between two points; the rejected events by their reason."""
    spool = Spool(folder)
    spool.describe(asdict(info))
    for name, content in dict(files).items():
        (folder / "files" / name).write_bytes(content)
    for event in [metric(1), *events, metric(2), {"kind": "status", "status": "FINISHED", "time": 5}]:
        spool.append(event)
    sender = Sender(Spool(folder), server_url)
    sender.finish.set()
    sender.run(20)
    assert sender.done, sender.problem
    rejected = folder / "rejected.jsonl"
    lines = rejected.read_text().splitlines() if rejected.exists() else []
    return {kept["reason"]: kept["event"] for kept in map(json.loads, lines)}


def model_event(**changes):
    weights = {"conv1_1.weight": torch.zeros(1)}
    return {
        "kind": "model",
        "about": {"architecture": {"configuration": "A", "classes": 10, "side": 32, "width": 0.125}},
        "weights_sha256": weights_sha256(weights),
        "file": "000001.safetensors",
        "step": 1,
        "time": 1,
        "metrics": {},
        **changes,
    }


@pytest.mark.parametrize(
    ("event", "files", "reason"),
    [
        ({"kind": "artifact", "path": "a.png", "file": "gone.png"}, {}, "No such file"),
        ({"kind": "artifact", "path": 7, "file": "x"}, {}, "has no attribute 'split'"),
        ({"kind": "artifact", "file": "x"}, {"x": b""}, "KeyError: 'path'"),
        (model_event(), {}, "No such file"),
        (model_event(), {"000001.safetensors": b"no tensors"}, "SafetensorError"),
        (
            model_event(about={"architecture": {"configuration": "Z"}}),
            {"000001.safetensors": b""},
            "configuration Z",
        ),
        (model_event(about={}), {"000001.safetensors": b""}, "KeyError: 'architecture'"),
        (model_event(weights_sha256="x' or '1'='1"), {"000001.safetensors": b""}, "is no digest"),
        ({"kind": "hologram", "of": "a later version"}, {}, "this version knows no 'hologram'"),
        ({"kind": "status", "status": "ASLEEP", "time": 1}, {}, "ASLEEP"),
        ({"kind": "status"}, {}, "KeyError: 'status'"),
        ({"kind": "tags", "values": ["x"]}, {}, "AttributeError"),
        ({"kind": "scores", "nets": 3, "time": 1, "metrics": {}}, {}, "AttributeError"),
        ({"kind": "metrics", "step": "x", "time": 1, "values": {"loss": 1}}, {}, "ValueError"),
        ({"kind": "metrics", "step": 1, "time": 1}, {}, "KeyError: 'values'"),
        ({"kind": "metrics", "step": 1, "time": 1, "values": {"loss": "high"}}, {}, "ValueError"),
        ({"kind": "metrics", "step": 2**80, "time": 1, "values": {"other": 1.0}}, {}, "range"),
    ],
    ids=[f"event{i}" for i in range(17)],
)
def test_an_event_of_ours_that_fails(server, info, tmp_path, capsys, event, files, reason):
    kept = deliver(server.url, info, tmp_path, [event], files)
    ((said, left),) = kept.items()
    assert reason in said
    assert left["kind"] == event["kind"]
    client, run = run_of(server, info)
    assert points(client, run, "loss") == [(1, 1.0), (2, 1.0)]
    assert run.info.status == "FINISHED"
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert "unavailable" not in line
    deliver_again(tmp_path, server)
    assert (tmp_path / "rejected.jsonl").read_text().count("\n") == 1
    assert capsys.readouterr().err == ""


def test_a_net_that_cannot_be_exported(server, info, tmp_path, monkeypatch):
    """MLflow's own error of an export looks like one of a server that fails."""
    import mlflow.pytorch
    from mlflow.exceptions import MlflowException

    from vgg.net.architecture import Architecture
    from vgg.net.initialise import initialise
    from vgg.net.module import VGG

    def save_model(*_, **__):
        raise MlflowException("the graph cannot be exported")

    monkeypatch.setattr(mlflow.pytorch, "save_model", save_model)
    net = VGG(Architecture("A", 10, 32, 0.125))
    initialise(net, "glorot", 0)
    tracker = Tracker(tmp_path, server.url, info)
    tracker.model(net.state_dict(), model_event()["about"], 1, {})
    tracker.tags({"behind": "it"})
    assert tracker.close("FINISHED", DELIVERY_SECONDS)
    assert "the graph cannot be exported" in (tmp_path / "rejected.jsonl").read_text()
    _, run = run_of(server, info)
    assert run.data.tags["behind"] == "it"


@contextmanager
def answering(upstream, choose):
    """A proxy of the server that answers itself where `choose(method, path, body)` gives a status and text."""

    class Proxy(BaseHTTPRequestHandler):
        def forward(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = choose(self.command, self.path, body) or self.ask(body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if content[:1] == b"{" else "text/html")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def ask(self, body):
            headers = {key: value for key, value in self.headers.items() if key.lower() != "host"}
            try:
                answer = urlopen(Request(upstream + self.path, body or None, headers, method=self.command))
            except HTTPError as error:
                answer = error
            return answer.status, answer.read()

        do_GET = do_POST = do_PUT = do_PATCH = forward

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        thread = Thread(target=proxy.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{proxy.server_port}"
        proxy.shutdown()
        thread.join()


@pytest.mark.parametrize("status", [400, 413])
def test_an_upload_that_the_server_refuses_for_good(server, info, tmp_path, capsys, status):
    def choose(method, *_):
        return (status, b"no") if method == "PUT" else None

    with answering(server.url, choose) as uri:
        kept = deliver(uri, info, tmp_path, [{"kind": "artifact", "path": "a/b.txt", "text": "x"}])
    ((reason, event),) = kept.items()
    assert str(status) in reason
    assert event["path"] == "a/b.txt"
    assert "rejected by the server: artifact a/b.txt" in capsys.readouterr().err
    client, run = run_of(server, info)
    assert points(client, run, "loss") == [(1, 1.0), (2, 1.0)]


@pytest.mark.parametrize(
    ("refused", "status"),
    [
        *(("uploads", status) for status in (401, 404, 429, 503)),
        *(("points", status) for status in (403, 404, 500)),
    ],
)
def test_what_may_pass_is_tried_again_in_order(server, info, tmp_path, monkeypatch, refused, status):
    """A 404 with nothing of MLflow's in it is that of a proxy."""
    asked = []

    def choose(method, path, body):
        asked.append(path)
        concerned = method == "PUT" if refused == "uploads" else b'"loss"' in body
        failures = sum("refused" in each for each in asked)
        if concerned and failures < 2:
            asked.append("refused")
            return status, b"not now"
        return None

    monkeypatch.setattr("vgg.tracking.sender.FIRST_PAUSE_SECONDS", 0.05)
    with answering(server.url, choose) as uri:
        kept = deliver(uri, info, tmp_path, [{"kind": "artifact", "path": "a.txt", "text": "x"}])
    assert kept == {}
    assert asked.count("refused") == 2
    client, run = run_of(server, info)
    assert points(client, run, "loss") == [(1, 1.0), (2, 1.0)]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["a.txt"]


def test_numbers_that_are_none(server, info, tmp_path):
    """MLflow stores NaN, and the largest number in place of infinity."""
    steps = [(3, math.nan), (4, math.inf), (5, -math.inf)]
    assert deliver(server.url, info, tmp_path, [metric(*each) for each in steps]) == {}
    client, run = run_of(server, info)
    found = dict(points(client, run, "loss"))
    assert math.isnan(found[3])
    assert found[4] == np.finfo(np.float64).max
    assert found[5] == np.finfo(np.float64).min


def test_thousands_of_points_of_one_step(server, info, tmp_path):
    values = {f"curve{i}": float(i) for i in range(3_000)}
    event = {"kind": "metrics", "step": 1, "time": 1, "values": values}
    assert deliver(server.url, info, tmp_path, [event]) == {}
    _, run = run_of(server, info)
    assert {**run.data.metrics, "loss": 0.0} == {**values, "loss": 0.0}


def test_more_parameters_than_a_request_may_hold_and_one_that_is_refused(server, info, tmp_path):
    params = {f"p{i}": str(i) for i in range(250)}
    kept = deliver(server.url, replace(info, params={**params, "bad\nname": "x"}), tmp_path, [])
    _, run = run_of(server, info)
    assert run.data.params == params
    assert [event["values"] for event in kept.values()] == [{"bad\nname": "x"}]


def test_an_earlier_server_takes_shorter_parameters(server, info, tmp_path):
    def choose(_, path, body):
        if not path.endswith("log-batch"):
            return None
        long = any(len(each["value"]) > 500 for each in json.loads(body).get("params", []))
        answer = {"error_code": "INVALID_PARAMETER_VALUE", "message": "500 characters at most"}
        return (400, json.dumps(answer).encode()) if long else None

    with answering(server.url, choose) as uri:
        assert deliver(uri, info, tmp_path, []) == {}
    _, run = run_of(server, info)
    assert run.data.params == {"optim.lr": "0.01", "long": "x" * 500}


def test_the_command_names_what_it_could_not_deliver(server, info, tmp_path, monkeypatch, capsys):
    spool = Spool(tmp_path)
    spool.describe(asdict(info))
    spool.append({"kind": "artifact", "path": "pictures/curves.png", "file": "gone.png"})
    spool.append(metric(1))
    monkeypatch.setattr(sys, "argv", ["vgg.track", str(tmp_path), "--uri", server.url])
    track.main()
    said = capsys.readouterr()
    assert said.out.startswith(f"delivered: {server.url}/")
    assert "cannot be delivered: artifact pictures/curves.png gone.png" in said.err
    assert f"1 events could not be delivered: {tmp_path}/rejected.jsonl" in said.err


def test_two_senders_of_one_spool(server, info, tmp_path, monkeypatch, capsys):
    """The second waits, and says for what; nothing arrives twice."""
    tracker = Tracker(tmp_path, server.url, info)
    tracker.metrics(1, {"loss": 1.0})
    arguments = [str(tmp_path), "--uri", server.url, "--patience-seconds", "0"]
    monkeypatch.setattr(sys, "argv", ["vgg.track", *arguments])
    while tracker.sender.url is None:
        tracker.spool.appended.wait(0.1)
    with pytest.raises(SystemExit) as stopped:
        track.main()
    assert stopped.value.code == 1
    err = capsys.readouterr().err
    assert "another process delivers this spool" in err
    assert "unavailable" not in err
    assert tracker.close("FINISHED", DELIVERY_SECONDS)
    client, run = run_of(server, info)
    assert points(client, run, "loss") == [(1, 1.0)]
    assert run.info.status == "FINISHED"


def test_the_end_says_why_not_all_is_delivered(info, tmp_path, monkeypatch, capsys):
    """An error of the sender itself is not blamed on the server."""

    def broken(*_):
        raise ValueError("a bug")

    monkeypatch.setattr(Sender, "_open_run", broken)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    tracker = Tracker(tmp_path, "http://127.0.0.1:9", info)
    assert not tracker.close("FINISHED", 5)
    assert "the sender ended: ValueError('a bug')" in tracker.undelivered
    assert f"python -m vgg.track {tmp_path} --uri http://127.0.0.1:9" in tracker.undelivered
