"""`python -m vgg.track`: the exit codes."""

import json
import sys
from dataclasses import asdict

import pytest

from tests.tracking.runs import points, run_of
from vgg import track
from vgg.tracking.sender import Sender
from vgg.tracking.tracker import Tracker


def test_a_folder_that_is_not_a_spool(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vgg.track", str(tmp_path), "--uri", "http://127.0.0.1:9"])
    with pytest.raises(SystemExit) as stopped:
        track.main()
    assert stopped.value.code == 2
    assert "is not a spool" in capsys.readouterr().err


def test_a_server_that_stays_away_is_given_up(info, tmp_path, monkeypatch, capsys):
    Tracker(tmp_path, "http://127.0.0.1:9", info).close("FINISHED", 0)
    arguments = [str(tmp_path), "--uri", "http://127.0.0.1:9", "--patience-seconds", "0"]
    monkeypatch.setattr(sys, "argv", ["vgg.track", *arguments])
    with pytest.raises(SystemExit) as stopped:
        track.main()
    assert stopped.value.code == 1
    assert "gave up" in capsys.readouterr().err


def test_a_damaged_spool_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "run.json").write_text("{")
    monkeypatch.setattr(sys, "argv", ["vgg.track", str(tmp_path), "--uri", "http://127.0.0.1:9"])
    with pytest.raises(SystemExit) as stopped:
        track.main()
    assert stopped.value.code == 2
    assert "run.json is not JSON" in capsys.readouterr().err


def test_a_bug_is_not_the_users_mistake(info, tmp_path, monkeypatch):
    """A ValueError that no one expects keeps its traceback, which makes the exit code 1."""
    Tracker(tmp_path, "http://127.0.0.1:9", info).close("FINISHED", 0)

    def broken(*_):
        raise ValueError("a bug")

    monkeypatch.setattr(Sender, "run", broken)
    monkeypatch.setattr(sys, "argv", ["vgg.track", str(tmp_path), "--uri", "http://127.0.0.1:9"])
    with pytest.raises(ValueError, match="a bug"):
        track.main()


# As an earlier version wrote it; that one delivered the first event to another server.
EARLIER_EVENTS = (
    '{"kind": "status", "status": "RUNNING"}\n'
    '{"kind": "metrics", "step": 1, "time": 1700000000001, "values": {"train/loss": 2.0}}\n'
    '{"kind": "metrics", "step": 2, "time": 1700000000002, "values": {"train/loss": 1.0}}\n'
    '{"kind": "tags", "values": {"problem": "none"}}\n'
    '{"kind": "artifact", "path": "notes/a.txt", "file": "000001.txt"}\n'
    '{"kind": "scores", "nets": {"abc": "vgg11"}, "time": 1700000000003, "metrics": {"top1_error": 30.0}}\n'
    '{"kind": "status", "status": "FINISHED", "time": 1700000000004}\n'
)


def test_a_spool_of_an_earlier_version_is_delivered(server, info, tmp_path, monkeypatch, capsys):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "000001.txt").write_text("kept")
    (tmp_path / "events.jsonl").write_text(EARLIER_EVENTS)
    (tmp_path / "run.json").write_text(json.dumps(asdict(info)))
    (tmp_path / "sent.json").write_text('{"bytes": 39}')
    (tmp_path / "lock").touch()
    monkeypatch.setattr(sys, "argv", ["vgg.track", str(tmp_path), "--uri", server.url])
    track.main()
    client, run = run_of(server, info)
    assert capsys.readouterr().out == (
        f"delivered: {server.url}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        "?workflowType=machine_learning\n"
    )
    assert points(client, run, "train/loss") == [(1, 2.0), (2, 1.0)]
    assert (run.info.status, run.info.end_time) == ("FINISHED", 1_700_000_000_004)
    assert (run.data.tags["problem"], run.data.metrics["top1_error"]) == ("none", 30.0)
    assert [file.path for file in client.list_artifacts(run.info.run_id, "notes")] == ["notes/a.txt"]
    assert not (tmp_path / "rejected.jsonl").exists()
