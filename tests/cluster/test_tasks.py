"""Tasks on a Ray cluster: errors keep their type, what is lost runs again or ends the job."""

import os
import signal
from pathlib import Path
from uuid import uuid4

import pytest
import ray

from cli.errors import Failure, UserError
from cluster.connection import connect
from cluster.layout import Layout
from cluster.tasks import run_as_ray_tasks, run_on_workers

ERRORS = [
    UserError("the data is damaged"),
    Failure("the store is gone"),
    ValueError("a bug"),
    KeyError("a bug"),
]


def square(number: int) -> int:
    return number**2


def fail(error: Exception) -> None:
    raise error


def kill_once(marker: Path) -> int:
    """Kills the process that runs it, unless it has done so before."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


@pytest.fixture
def address(ray_cluster, monkeypatch):
    """Of the shared cluster, which this process has not joined before nor after."""
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.head.address)
    ray.shutdown()
    yield ray_cluster.head.address
    ray.shutdown()


def test_ray_tasks_return_every_result_and_leave_the_cluster(address):
    assert sorted(run_as_ray_tasks(square, range(20), 2, address)) == [(i, i * i) for i in range(20)]
    assert not ray.is_initialized()


def test_an_error_in_a_ray_task_keeps_its_type_and_its_line(address):
    for error in ERRORS:
        with pytest.raises(type(error)) as raised:
            list(run_as_ray_tasks(fail, [error], 1, address))
        assert type(raised.value) is type(error)
        assert raised.value.args == error.args


def test_a_ray_task_whose_process_was_killed_runs_again(address, tmp_path):
    ((_, pid),) = run_as_ray_tasks(kill_once, [tmp_path / "killed"], 1, address)
    assert (tmp_path / "killed").exists()
    assert pid != os.getpid()


def make_raising(_, error):
    raise error


def make_failing(_, __):
    return fail


def make_killing(_, __):
    return kill_once


def make_numbered(worker, payload):
    number = uuid4()
    return lambda task: (payload, worker.rank, number)


def test_a_worker_is_set_up_once(address):
    found = list(run_on_workers(make_numbered, "payload", range(6), Layout(workers=2)))
    assert sorted(task for task, _ in found) == list(range(6))
    assert {payload for _, (payload, _, _) in found} == {"payload"}
    assert len({number for _, (_, _, number) in found}) == len({rank for _, (_, rank, _) in found})


def test_an_error_of_a_worker_keeps_its_type(address):
    """Whether it is raised when the worker is set up or by a task."""
    for error in ERRORS[::2]:
        for make in (make_raising, make_failing):
            with pytest.raises(type(error)) as raised:
                list(run_on_workers(make, error, [error], Layout()))
            assert type(raised.value) is type(error)
            assert raised.value.args == error.args


def test_a_killed_worker_is_set_up_again_and_one_that_always_dies_is_a_failure(address, tmp_path):
    found = dict(run_on_workers(make_killing, None, [tmp_path / "a", tmp_path / "b"], Layout(max_failures=2)))
    assert set(found) == {tmp_path / "a", tmp_path / "b"}
    with pytest.raises(Failure, match=r"more than --layout\.max-failures times") as raised:
        list(run_on_workers(make_killing, None, [tmp_path / "c"], Layout(max_failures=0)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"), ("nowhere", "nowhere is not the address")],
)
def test_an_address_where_no_cluster_is(given, said):
    ray.shutdown()
    with pytest.raises(UserError, match=said):
        connect(given)
    assert not ray.is_initialized()
