"""What a tracker records, as a real MLflow server shows it."""

import json
from dataclasses import replace

import pytest

from tests.tracking.runs import DELIVERY_SECONDS, points, run_of
from vgg.pictures.curves import training_curves
from vgg.pictures.png import as_png
from vgg.tracking.tracker import Tracker


def test_everything_arrives(server, info, tmp_path):

    tracker = Tracker(tmp_path, server.url, info)
    for step in range(1, 1501):  # more than a request may hold
        tracker.metrics(step, {"train/loss": 1 / step})
    tracker.file("pictures/curves.png", as_png(training_curves([3.0, 2.0], [])))
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
    page = f"{server.url}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert tracker.sender.url == f"{page}?workflowType=machine_learning"


@pytest.mark.parametrize("spool", ["kept", "lost"])
def test_a_resumed_training_stays_one_run_without_duplicates(server, info, tmp_path, spool):
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


def test_a_tag_longer_than_the_limit_is_truncated(server, info, tmp_path):
    """The many parameters of another recipe, joined in one tag."""
    for uri_folder, letter in (("first", "x"), ("second", "y")):
        params = {f"setting{i}": letter * 3000 for i in range(5)}
        tracker = Tracker(tmp_path / uri_folder, server.url, replace(info, params=params))
        assert tracker.close("FINISHED", DELIVERY_SECONDS)
    _, run = run_of(server, info)
    assert run.data.tags["resumed.params"].startswith("setting0=yyy")
    assert not (tmp_path / "second" / "rejected.jsonl").exists()


def test_rejected_events_are_kept_and_block_nothing(server, info, tmp_path, capsys):
    tracker = Tracker(tmp_path, server.url, info)
    tracker.tags({"bad\nkey": "x"})
    for step in range(20):
        tracker.metrics(step, {"train/loss": float(step), **({"bad\nkey": 7.0} if step == 13 else {})})
    assert tracker.close("FINISHED", DELIVERY_SECONDS)
    client, run = run_of(server, info)
    assert points(client, run, "train/loss") == [(step, float(step)) for step in range(20)]
    assert "rejected by the server: tags" in capsys.readouterr().err
    tags, point = [json.loads(line)["event"] for line in (tmp_path / "rejected.jsonl").open()]
    assert tags["values"] == {"bad\nkey": "x"}
    assert (point["step"], point["values"]) == (13, {"bad\nkey": 7.0})
