"""A training that is interrupted, or whose workers are lost, does not stay RUNNING in MLflow."""

import time
from dataclasses import replace

import pytest

from tests.tracking.runs import DELIVERY_SECONDS, run_of
from vgg.tracking.cut_off import ATTEMPT_TAG, ending_run
from vgg.tracking.sender import Sender
from vgg.tracking.spool import Spool
from vgg.tracking.tracker import Tracker


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
    assert run_of(server, trackers["mine"].sender.info)[1].info.status == status
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
