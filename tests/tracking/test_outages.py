"""Tracking while the server, its store or the training itself goes away."""

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

from mlflow import MlflowClient

from cluster.processes import free_port
from tests.conftest import ROOT
from tests.tracking.runs import DELIVERY_SECONDS, points, run_of
from vgg.tracking import tracker
from vgg.tracking.spool import Spool
from vgg.tracking.tracker import Tracker


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
        assert time.monotonic() - began < 5, "the training waited while the server was away"
        began = time.monotonic()
        assert not trackers["end"].close("FINISHED", 2)
        assert time.monotonic() - began < 20
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


def test_a_server_that_accepts_connections_and_never_answers_does_not_delay_the_end(info, tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        tracker = Tracker(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", info)
        began = time.monotonic()
        assert not tracker.close("FINISHED", 1)
        assert time.monotonic() - began < 20  # MLflow's request time-out is 120 seconds


def test_a_server_that_is_away_delays_the_end_by_seconds(info, tmp_path, monkeypatch):
    """Not by what one may take that answers; how the rest is delivered is told."""
    monkeypatch.setattr(tracker, "AWAY_SECONDS", 0.5)
    run = Tracker(tmp_path, f"http://127.0.0.1:{free_port()}", info)
    began = time.monotonic()
    assert not run.close("FINISHED", 600)
    assert time.monotonic() - began < 60
    assert f"python -m vgg.track {tmp_path} --uri http://127.0.0.1:" in run.undelivered


def test_a_slow_store_is_waited_for(server, info, tmp_path):
    """Uploads may take longer than MLflow.s request timeout, here one second."""
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
    """A proxy of the server that delays every answer to an upload."""

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


def test_a_killed_and_resumed_training_loses_nothing(server, info, tmp_path):
    """Killed while it wrote: an incomplete line is left, and a lock that the system frees."""
    program = (
        "import json, os, signal, sys; from pathlib import Path\n"
        "from vgg.tracking.run_info import RunInfo; from vgg.tracking.tracker import Tracker\n"
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


def test_a_run_that_cannot_be_created_is_not_reported_as_delivered(server, info, tmp_path, capsys):
    client = MlflowClient(server.url)
    client.delete_experiment(client.create_experiment("deleted"))
    tracker = Tracker(tmp_path, server.url, replace(info, experiment="deleted"))
    assert not tracker.close("FINISHED", 5)
    assert "it rejects the run" in capsys.readouterr().err


def test_a_server_that_lost_the_run_gets_all_events_again(server, info, tmp_path):
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
