"""How many workers of a range start, and when it is time for more."""

import socket
import time
from typing import Any

import pytest
import ray

from cli.errors import UserError
from cluster import elastic
from cluster.elastic import Growth, Room, find_room, fitting
from cluster.layout import Layout


@pytest.mark.parametrize(
    ("free", "workers"),
    [
        ([{"CPU": 4.0}], 2),
        ([{"CPU": 3.0}, {"CPU": 1.0}], 1),  # no worker spans two nodes
        ([{"CPU": 2.0}, {"CPU": 5.0}, {"GPU": 1.0}], 3),
        ([], 0),
    ],
)
def test_workers_of_two_cores_that_fit(free, workers):
    assert fitting(free, {"CPU": 2}) == workers


def test_nothing_is_placed_on_nodes_that_do_not_answer():
    assert Room(2, {"CPU": 1}).label_selector is None
    assert Room(2, {"CPU": 1}, ("a", "b")).label_selector == {"ray.io/node-id": "!in(a,b)"}


def test_a_node_answers_or_is_silent():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        there = {"NodeID": "there", "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port}
        assert elastic._silent([there]) == ()
        gone = {"NodeID": "gone", "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": 1}
        assert elastic._silent([there, gone]) == ("gone",)


def wait_for_free(cpus, seconds=30):
    """Ray gives back what earlier tests held a moment later."""
    deadline = time.monotonic() + seconds
    while ray.available_resources().get("CPU", 0) < cpus:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_range_takes_what_there_is(connected, monkeypatch):
    """Of a node of four cores."""
    wait_for_free(4)
    with monkeypatch.context() as patch:
        patch.setattr(elastic, "SETTLE_SECONDS", 60.0)
        began = time.monotonic()
        assert find_room(Layout(workers=3, fewest_workers=2)).workers == 3
        assert time.monotonic() - began < elastic.SETTLE_SECONDS, "the most is waited for no longer"
    assert find_room(Layout(workers=8, fewest_workers=2)) == Room(4, {"CPU": 1})
    with pytest.raises(UserError, match=r"--layout.workers 5\.\.8 asks for at least 5 .* has room for 4"):
        find_room(Layout(workers=8, fewest_workers=5, wait_seconds=0.5))


def test_it_is_time_for_more_once_room_has_stayed(connected):
    wait_for_free(4)
    growth = Growth(Layout(workers=4, fewest_workers=1), running=2)
    deadline = time.monotonic() + elastic.SETTLE_SECONDS + 0.5
    while time.monotonic() < deadline:
        assert not growth.is_due(started=1), "the room may be their own"
        time.sleep(0.2)
    assert not growth.is_due(started=2), "it may pass"
    time.sleep(elastic.SETTLE_SECONDS)
    assert growth.is_due(started=2)
    assert not Growth(Layout(workers=4), 4).is_due(started=4)


def test_it_is_not_time_for_more_where_others_have_the_room(connected):
    wait_for_free(4)

    class Other:
        def is_there(self) -> bool:
            return True

    other: Any = ray.remote(num_cpus=4)(Other).remote()
    assert ray.get(other.is_there.remote())
    deadline = time.monotonic() + 10
    while ray.available_resources().get("CPU", 0) > 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    growth = Growth(Layout(workers=4, fewest_workers=1), running=2)
    growth.is_due(started=2)
    time.sleep(elastic.SETTLE_SECONDS)
    assert not growth.is_due(started=2)
    ray.kill(other)
