"""A full disk under the spool: the training goes on, what can be delivered is, and the user is told once."""

import os
import resource
import shutil
import subprocess

import pytest

from tests.tracking.runs import DELIVERY_SECONDS, points, run_of
from vgg.tracking import journal
from vgg.tracking.sender import Sender
from vgg.tracking.spool import Spool
from vgg.tracking.tracker import Tracker

needs_mount = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting a tiny file system needs root"
)
POINTS = 2000  # some 200 kB


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 100 kB, half of it taken."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a tiny file system cannot be mounted: {mounted.stderr.strip()}")
    (folder / "ballast").write_bytes(b"x" * 50_000)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@needs_mount
def test_all_is_delivered_from_memory(server, info, tiny_disk, capsys):
    tracker = Tracker(tiny_disk / "spool", server.url, info)
    for step in range(POINTS):
        tracker.metrics(step, {"train/loss": float(step)})
    tracker.text("result.json", "x" * 100_000)
    assert tracker.close("FINISHED", DELIVERY_SECONDS)
    client, run = run_of(server, info)
    assert points(client, run, "train/loss") == [(step, float(step)) for step in range(POINTS)]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["result.json"]
    assert run.info.status == "FINISHED"
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tiny_disk}/spool cannot be written (No space left on device)" in line
    assert "kept in memory" in line


@needs_mount
def test_with_the_server_away_as_well(info, server, tiny_disk, capsys):
    """What reached the disk is delivered later; that the rest is lost is said."""
    tracker = Tracker(tiny_disk / "spool", "http://127.0.0.1:9", info)
    for step in range(POINTS):
        tracker.metrics(step, {"train/loss": float(step)})
    assert not tracker.close("FINISHED", 1)
    assert "records are in memory alone and 0 were dropped" in capsys.readouterr().err
    later = Sender(Spool(tiny_disk / "spool"), server.url, ends_cut_off=True)
    later.finish.set()
    later.run(DELIVERY_SECONDS)
    assert later.done
    client, run = run_of(server, info)
    found = points(client, run, "train/loss")
    assert 0 < len(found) < POINTS
    assert found == [(step, float(step)) for step in range(len(found))]
    assert run.info.status == "KILLED"  # its end was not kept


@needs_mount
def test_a_disk_that_has_room_again(info, tiny_disk):
    spool = Spool(tiny_disk / "spool")
    events = [{"kind": "metrics", "step": step} for step in range(POINTS)]
    for event in events[:1500]:
        spool.append(event)
    assert spool.lock_for_delivery()
    delivered = []
    for _ in range(2):  # some of it from memory
        for event, position in spool.pending(limit=600):
            delivered.append(event)
            spool.mark_delivered(position)
    (tiny_disk / "ballast").unlink()
    for event in events[1500:]:
        spool.append(event)
    for event, position in spool.pending(limit=100):
        delivered.append(event)
        spool.mark_delivered(position)
    assert spool.lost_at_the_end() is None
    spool.unlock()
    other = Spool(tiny_disk / "spool")
    assert other.lock_for_delivery()
    while pending := other.pending():
        delivered += [event for event, _ in pending]
        other.mark_delivered(pending[-1][1])
    assert delivered == events


@needs_mount
def test_a_disk_that_is_full_from_the_start(server, info, tiny_disk, capsys):
    with pytest.raises(OSError, match="No space"):
        (tiny_disk / "more").write_bytes(b"x" * 100_000)
    tracker = Tracker(tiny_disk / "spool", server.url, info)
    tracker.metrics(1, {"train/loss": 1.0})
    tracker.text("result.json", "{}")
    assert tracker.close("FINISHED", DELIVERY_SECONDS)
    client, run = run_of(server, info)
    assert points(client, run, "train/loss") == [(1, 1.0)]
    assert run.info.status == "FINISHED"
    assert capsys.readouterr().err.count("\n") == 1


@needs_mount
def test_a_net_that_does_not_fit(server, info, tiny_disk, capsys):
    import torch

    tracker = Tracker(tiny_disk / "spool", server.url, info)
    tracker.model({"weight": torch.zeros(100_000)}, {}, 7, {})
    tracker.tags({"behind": "it"})
    assert tracker.close("FINISHED", DELIVERY_SECONDS)
    _, run = run_of(server, info)
    assert run.data.tags["behind"] == "it"
    assert "the net of step 7 is not tracked" in capsys.readouterr().err
    assert list((tiny_disk / "spool" / "files").iterdir()) == []


def test_memory_has_a_limit(info, tmp_path, monkeypatch, capsys):
    """A limit on a file's size stands for the full disk. Points beyond are dropped, all else is kept."""
    monkeypatch.setattr(journal, "MAX_UNWRITTEN", 50)
    spool = Spool(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        for step in range(100):
            spool.append({"kind": "metrics", "step": step})
        spool.append({"kind": "status", "status": "FINISHED"})
        assert spool.lock_for_delivery()
        events = [event for event, _ in spool.pending()]
        lost = spool.lost_at_the_end()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    written = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [event["step"] for event in events[:-1]] == list(range(len(written) + 50))
    assert events[-1]["kind"] == "status"
    assert lost is not None
    assert f"51 records are in memory alone and {50 - len(written)} were dropped" in lost
    assert "File too large" in capsys.readouterr().err
