"""A graph of tasks on a real cluster: order, failures, progress."""

import os
import time
from functools import partial
from pathlib import Path

import pytest
import ray

from cli.errors import Failure, UserError
from cluster.connection import connect
from cluster.task_graph import GraphTask, Snapshot, run_graph

CORE = {"CPU": 1.0}


def add(tell, *numbers: int) -> int:
    tell(0.5)
    return 1 + sum(numbers)


def fail(tell, *_: int) -> int:
    raise UserError("a wrong flag")


def slow(tell, *_: int) -> int:
    tell(0.25)
    time.sleep(3)
    return 7


def die_once(marker: Path, tell, *_: int) -> int:
    if not marker.exists():
        marker.touch()
        os._exit(1)
    return 5


@pytest.fixture
def run(ray_cluster):
    connect(ray_cluster.head.address)

    def run(*tasks: GraphTask) -> list[Snapshot]:
        return list(run_graph(tasks))

    yield run
    ray.shutdown()


def task(name: str, call, *after: str, retries: int = 0) -> GraphTask:
    return GraphTask(name, call, after, CORE, retries)


def test_a_failure_stops_only_what_needs_it(run):
    last = run(
        task("a", add),
        task("b", fail),
        task("of-a", add, "a"),
        task("of-b", add, "b"),
        task("of-both", add, "a", "of-b"),
        task("of-of-a", add, "a", "of-a"),
    )[-1]
    assert last.results == {"a": 1, "of-a": 2, "of-of-a": 4}
    assert {name: str(error) for name, error in last.errors.items()} == {"b": "a wrong flag"}
    assert isinstance(last.errors["b"], UserError)
    assert last.not_run == {"of-b": "b", "of-both": "b"}


def test_what_runs_says_how_far_it_is(run):
    shares = [snapshot.running.get("slow") for snapshot in run(task("slow", slow))]
    assert 0.25 in shares
    assert shares[-1] is None


def test_a_lost_process_runs_again_as_often_as_it_may(run, tmp_path):
    once = partial(die_once, tmp_path / "once")
    again = partial(die_once, tmp_path / "again")
    last = run(task("again", again, retries=1), task("once", once, retries=0))[-1]
    assert last.results == {"again": 5}
    assert isinstance(last.errors["once"], Failure)
    assert "lost more often than --layout.max-failures" in str(last.errors["once"])
