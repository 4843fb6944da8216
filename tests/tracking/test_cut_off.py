"""A training that is interrupted, or whose workers are lost, does not stay RUNNING in MLflow."""

import json
import signal
import subprocess
import time
from dataclasses import replace

import pytest
from mlflow import MlflowClient

from tests import entry_point
from tests.conftest import ROOT
from tests.tracking.runs import DELIVERY_SECONDS, run_of
from vgg.tracking.cut_off import ATTEMPT_TAG, ending_run
from vgg.tracking.sender import Sender
from vgg.tracking.spool import Spool
from vgg.tracking.tracker import Tracker


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_is_killed(ray_cluster, mlflow_server, digits, tmp_path, number):
    """By Ctrl-C, and by what `ray job stop` sends, once it has saved the step that its curve ends at."""
    flags = ["--track", mlflow_server.url, "--experiment", number.name, "--train.steps", "100000"]
    with (tmp_path / "log").open("w") as log:
        training = subprocess.Popen(
            entry_point.command(digits, tmp_path / "out", *flags),
            cwd=ROOT,
            env=entry_point.environment(ray_cluster.head),
            stdout=log,
            stderr=log,
        )
        try:
            run = wait_for_run(mlflow_server, number.name, training)
            assert run.info.status == "RUNNING"
            wait_for_steps(mlflow_server, run, training)
            training.send_signal(number)
            assert training.wait(120) == 128 + number, (tmp_path / "log").read_text()
        finally:
            training.kill()
    (run,) = runs(mlflow_server, number.name)
    assert run.info.status == "KILLED", (tmp_path / "log").read_text()
    assert abs(run.info.end_time / 1000 - time.time()) < 60
    index = json.loads((tmp_path / "out" / "checkpoints" / "index.json").read_text())
    saved = int(index["last"].removeprefix("step-"))
    assert [point.step for point in losses(mlflow_server, run)] == list(range(1, saved + 1))
    assert f"stopped: step {saved} is kept" in (tmp_path / "log").read_text()


def losses(server, run):
    return MlflowClient(server.url).get_metric_history(run.info.run_id, "train/loss")


def wait_for_steps(server, run, training):
    deadline = time.monotonic() + 400
    while not losses(server, run):
        assert training.poll() is None, "it ended before it was interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.2)


def runs(server, experiment):
    client = MlflowClient(server.url)
    found = client.get_experiment_by_name(experiment)
    return client.search_runs([found.experiment_id]) if found is not None else []


def wait_for_run(server, experiment, training):
    deadline = time.monotonic() + 400
    while True:
        found = runs(server, experiment)
        if found:
            return found[0]
        assert training.poll() is None, "it ended before it was interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (SystemExit, "KILLED")])
def test_only_the_run_of_this_attempt_is_ended(server, info, tmp_path, error, status):
    """Another attempt, which holds the run's folder, goes on."""
    trackers = {}
    for name in ("mine", "other"):
        tags = {**info.tags, ATTEMPT_TAG: f"{name}-{status}"}
        trackers[name] = Tracker(
            tmp_path / name, server.url, replace(info, uid=f"{info.uid}-{name}", tags=tags)
        )
        trackers[name].metrics(1, {"loss": 1.0})
        while not trackers[name].spool.read_json("sent.json"):
            time.sleep(0.1)
    with pytest.raises(error), ending_run(server.url, f"mine-{status}"):
        raise error
    deadline = time.monotonic() + DELIVERY_SECONDS
    while run_of(server, trackers["mine"].sender.info)[1].info.status != status:  # a busy machine takes longer
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert run_of(server, trackers["other"].sender.info)[1].info.status == "RUNNING"
    for tracker in trackers.values():
        assert tracker.close("FINISHED", DELIVERY_SECONDS)
    with pytest.raises(error), ending_run(server.url, f"mine-{status}"):
        raise error
    assert run_of(server, trackers["mine"].sender.info)[1].info.status == "FINISHED"


def test_without_a_server_the_interruption_is_not_held_up(capsys):
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), ending_run("http://127.0.0.1:9", "x"):
        raise KeyboardInterrupt
    assert time.monotonic() - began < 10
    assert "stays RUNNING" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["FINISHED", None])
def test_a_spool_delivered_later_ends_its_run_when_the_training_ended(server, info, tmp_path, end):
    """Without an end it was killed, at the time of the last event."""
    spool = Spool(tmp_path)
    spool.describe({**info.__dict__})
    spool.append({"kind": "status", "status": "RUNNING"})  # without a time, as earlier versions wrote it
    spool.append({"kind": "metrics", "step": 1, "time": 1_700_000_050_000, "values": {"loss": 1.0}})
    if end is not None:
        spool.append({"kind": "status", "status": end, "time": 1_700_000_060_000})
    for _ in range(2):
        sender = Sender(Spool(tmp_path), server.url, ends_cut_off=True)
        sender.finish.set()
        sender.run(DELIVERY_SECONDS)
        assert sender.done
    _, run = run_of(server, info)
    expected = (end, 1_700_000_060_000) if end else ("KILLED", 1_700_000_050_000)
    assert (run.info.status, run.info.end_time) == expected
