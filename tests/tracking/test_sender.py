"""The sender's waits: for news, between attempts, and how they end."""

import threading
import time
from dataclasses import asdict

import pytest

from tests.tracking.runs import DELIVERY_SECONDS, points, run_of
from vgg.tracking import sender as sender_module
from vgg.tracking.sender import Sender
from vgg.tracking.spool import Spool
from vgg.tracking.tracker import Tracker


@pytest.fixture
def away(info, tmp_path):
    """A sender to a port that nothing listens on."""
    spool = Spool(tmp_path)
    spool.write_json("run.json", asdict(info))
    return Sender(spool, "http://127.0.0.1:9")


def test_an_appended_event_wakes_an_idle_sender(server, info, tmp_path, monkeypatch):
    tracker = Tracker(tmp_path, server.url, info)
    assert eventually(lambda: tracker.sender.url)
    monkeypatch.setattr(sender_module, "IDLE_SECONDS", 600.0)
    time.sleep(1.5)  # it waits that long from now on
    tracker.metrics(1, {"train/loss": 1.0})
    client, run = run_of(server, info)
    assert eventually(lambda: points(client, run, "train/loss") == [(1, 1.0)])
    assert tracker.close("FINISHED", DELIVERY_SECONDS)


def eventually(holds):
    deadline = time.monotonic() + DELIVERY_SECONDS
    while not (found := holds()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def test_attempts_become_rarer_and_the_outage_is_reported_once(away, monkeypatch, capsys):
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 6:
            away.abandon()

    monkeypatch.setattr(away, "_pause", pause)
    away.run()
    assert pauses == [1, 2, 4, 8, 15, 15]
    assert capsys.readouterr().err.count("http://127.0.0.1:9 is unavailable") == 1
    assert not away.done


def test_patience_ends_the_attempts_and_frees_the_spool(away):
    began = time.monotonic()
    away.run(patience_seconds=0.5)
    assert time.monotonic() - began < 10
    assert not away.done
    assert Spool(away.spool.folder).lock_for_delivery()


def test_finish_and_abandon_end_a_long_pause_at_once(away, monkeypatch):
    monkeypatch.setattr(sender_module, "FIRST_PAUSE_SECONDS", 600.0)
    monkeypatch.setattr(sender_module, "LONGEST_PAUSE_SECONDS", 600.0)
    entered = threading.Semaphore(0)
    pause = away._pause

    def entering(seconds):
        entered.release()
        pause(seconds)

    monkeypatch.setattr(away, "_pause", entering)
    thread = threading.Thread(target=away.run, daemon=True)
    thread.start()
    assert entered.acquire(timeout=60)
    away.finish.set()
    assert entered.acquire(timeout=30), "finish did not end the pause"
    away.abandon()
    thread.join(30)
    assert not thread.is_alive(), "abandon did not end the pause"
