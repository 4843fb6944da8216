"""One attempt at a time: leases that are held, lapse, are taken over or lost."""

import json
import subprocess
import sys
import time

import pytest

from cli.errors import Failure, UserError
from pipelines.storage.folder import Folder
from tests.conftest import ROOT
from vgg.weights import lease as module
from vgg.weights.lease import FILE, Lease

HOLD = """
import sys, time
from pipelines.storage.folder import Folder
from vgg.weights.lease import Lease
lease = Lease(Folder(sys.argv[1]), "another")
lease.acquire()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LAPSE_SECONDS", 1.5)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.3)
    return Folder(str(tmp_path / "run"))


@pytest.fixture
def held_elsewhere(run):
    """A process that holds the lease and does not renew it within the test."""
    with subprocess.Popen([sys.executable, "-c", HOLD, run.uri], cwd=ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield holder
        holder.kill()


def acquired(run, attempt="mine"):
    lease = Lease(run, attempt)
    lease.acquire()
    return lease


def rewrite(run, **changes):
    run.write_json(FILE, {**json.loads(run.read(FILE)), **changes})


def test_a_free_folder_is_taken_and_left_free(run):
    lease = acquired(run)
    lease.check()
    lease.release()
    assert not run.exists(FILE)


def test_the_same_attempt_takes_it_at_once(run, capsys):
    """A worker that was restarted: the process is another, the attempt is not."""
    first = acquired(run)
    second = acquired(run)
    assert "in use" not in capsys.readouterr().out
    first.check()
    second.check()
    second.release()


def test_the_lease_of_a_process_that_has_ended_is_taken_at_once(run, held_elsewhere, capsys):
    held_elsewhere.kill()
    held_elsewhere.wait()
    acquired(run).release()
    assert "in use" not in capsys.readouterr().out


def test_a_lease_that_is_not_renewed_lapses(run, held_elsewhere, capsys):
    """The holder is alive, but on another machine for all we know; its renewals are 5 seconds apart."""
    rewrite(run, machine="another", host="elsewhere")
    started = time.monotonic()
    acquired(run).release()
    assert time.monotonic() - started > 1.4
    assert "in use by elsewhere" in capsys.readouterr().out


def test_a_lease_that_is_renewed_is_not_taken(run):
    holder = acquired(run, "another")
    rewrite(run, machine="another", host="elsewhere")
    holder._me = type(holder._me)(**{**json.loads(run.read(FILE)), "renewals": 0})
    with pytest.raises(UserError, match=r"written by another training.*elsewhere"):
        Lease(run, "mine").acquire()
    holder.check()
    holder.release()


def test_who_lost_the_lease_stops_and_touches_nothing(run):
    lease = acquired(run)
    rewrite(run, attempt="another", host="elsewhere")
    with pytest.raises(Failure, match="taken over by elsewhere"):
        lease.check()
    lease.release()
    assert json.loads(run.read(FILE))["attempt"] == "another"


@pytest.mark.parametrize("content", [b"", b"{}", b"garbage", b'{"attempt": 1}'])
def test_a_lease_that_cannot_be_read_is_none(run, content):
    run.write(FILE, content)
    acquired(run).release()
