"""What the command itself tells MLflow of a training whose workers cannot."""

import subprocess
import sys
import time
from dataclasses import replace

import pytest

from tests.conftest import ROOT
from tests.tracking.runs import DELIVERY_SECONDS, run_of
from vgg.tracking.cut_off import ATTEMPT_TAG
from vgg.tracking.remark import HANG_TAG, LONGEST_TAG, remark
from vgg.tracking.tracker import Tracker


@pytest.fixture
def running(server, info, tmp_path):
    """The tracker of a run that goes on."""
    tags = {**info.tags, ATTEMPT_TAG: info.uid}
    tracker = Tracker(tmp_path / "spool", server.url, replace(info, tags=tags), watch_system=False)
    tracker.metrics(1, {"loss": 1.0})
    while not tracker.spool.read_json("sent.json"):
        time.sleep(0.1)
    yield tracker
    tracker.close("FINISHED", DELIVERY_SECONDS)


def test_a_worker_that_does_not_go_on_is_a_tag(server, info, running):
    said = "rank 1 does not go on" + "; its stack" * LONGEST_TAG
    remark(server.url, info.uid, said)
    deadline = time.monotonic() + 60
    while HANG_TAG not in (tags := run_of(server, info)[1].data.tags):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert tags[HANG_TAG] == said[:LONGEST_TAG]


def test_a_run_that_is_made_later_has_the_tag(server, info, tmp_path):
    """As where the worker that hangs had not come to it."""
    attempt = f"{info.uid}-later"
    remark(server.url, attempt, "rank 0 does not go on")
    time.sleep(2)
    later = replace(info, uid=f"later-{info.uid}", tags={**info.tags, ATTEMPT_TAG: attempt})
    tracker = Tracker(tmp_path / "later", server.url, later, watch_system=False)
    tracker.metrics(1, {"loss": 1.0})
    deadline = time.monotonic() + 60
    while not tracker.spool.read_json("sent.json") or HANG_TAG not in run_of(server, later)[1].data.tags:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert tracker.close("FINISHED", DELIVERY_SECONDS)


WITHOUT_HEAD = """
import sys
from tests.processes import job
from vgg.tracking.without_head import end_without_head
data, out, server, attempt = sys.argv[1:]
end_without_head(job(data, out, tracking_uri=server, attempt=attempt), "the head has not answered for 30 s")
"""


def test_without_the_cluster_s_head_it_has_failed(server, info, running, digits, tmp_path):
    """Whatever else of the process waits for Ray."""
    arguments = [str(digits), str(tmp_path / "out"), server.url, info.uid]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_HEAD, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "error: the head has not answered for 30 s; no checkpoint had been saved in" in done.stderr
    assert run_of(server, info)[1].info.status == "FAILED"
