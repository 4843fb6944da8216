"""The spool folder: who may deliver it, and its files."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from cli.errors import UserError
from tests.conftest import ROOT
from vgg.tracking.spool import Spool


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path)


def test_one_object_delivers_at_a_time(spool):
    other = Spool(spool.folder)
    assert spool.lock_for_delivery()
    assert spool.lock_for_delivery()
    assert not other.lock_for_delivery()
    spool.unlock()
    assert other.lock_for_delivery()
    assert not spool.lock_for_delivery()


def test_another_process_delivers_until_it_is_killed(spool):
    program = (
        "import sys, time; from pathlib import Path; from vgg.tracking.spool import Spool\n"
        "spool = Spool(Path(sys.argv[1]))\n"
        "print(spool.lock_for_delivery(), flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(spool.folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "True\n"
            assert not spool.lock_for_delivery()
        finally:
            holder.kill()
    assert spool.lock_for_delivery()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_that_cannot_lock_is_delivered_without(spool, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    spool.append({"kind": "tags", "values": {}})
    assert spool.lock_for_delivery()
    assert [event["kind"] for event, _ in spool.pending()] == ["tags"]
    spool.unlock()


def test_any_other_error_of_the_lock_is_raised(spool, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, "a broken disk")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="a broken disk"):
        spool.lock_for_delivery()


def test_delivery_continues_after_the_recorded_position(spool):
    for step in range(5):
        spool.append({"kind": "metrics", "step": step})
    assert spool.lock_for_delivery()
    assert [event["step"] for event, _ in spool.pending(limit=2)] == [0, 1]
    spool.mark_delivered(spool.pending()[2][1])
    spool.unlock()
    resumed = Spool(spool.folder)
    assert resumed.lock_for_delivery()
    assert [event["step"] for event, _ in resumed.pending()] == [3, 4]
    assert {file.name for file in spool.folder.iterdir()} == {"events.jsonl", "files", "lock", "sent.json"}


def test_events_that_a_power_failure_took_back_are_written_again(spool):
    """sent.json points past the end of events.jsonl."""
    spool.write_json("sent.json", {"bytes": 1000})
    spool.append({"kind": "tags", "values": {"before": "yes"}})
    assert spool.lock_for_delivery()
    assert spool.pending() == []
    spool.append({"kind": "tags", "values": {"after": "yes"}})
    assert [event["values"] for event, _ in spool.pending()] == [{"after": "yes"}]


def test_a_damaged_file_is_named(spool):
    (spool.folder / "sent.json").write_text("{")
    with pytest.raises(UserError, match=r"sent\.json is not JSON"):
        spool.lock_for_delivery()
