"""A training goes on when Train's controller is lost, and ends with a reason where nothing can go on."""

import errno
import logging
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cli.errors import Failure
from cluster import trainer
from cluster.head import _watch
from cluster.layout import Layout, Worker
from cluster.leave import WORKER
from cluster.left_behind import free_left_behind
from cluster.losses import through_losses

CONTROLLER = "ray::TrainController"


def waiting(worker: Worker, job: str) -> int:
    """The first attempt says that it is there and waits for its end; the second ends."""
    marker = Path(job) / "attempts"
    if worker.rank == 0:
        with marker.open("a") as file:
            file.write("attempt\n")
        if marker.read_text().count("attempt") == 1:
            time.sleep(120)
    return worker.world


def kill_controller_once(cluster, marker: Path) -> None:
    deadline = time.monotonic() + 120
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in cluster.head.process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(CONTROLLER):
                process.kill()
        except psutil.NoSuchProcess:
            continue


def test_without_its_controller_a_training_starts_again(cluster, tmp_path, capfd):
    killing = threading.Thread(target=kill_controller_once, args=(cluster, tmp_path / "attempts"))
    killing.start()
    assert trainer.run(waiting, str(tmp_path), Layout(workers=1, wait_seconds=60)) == 1
    killing.join()
    assert (tmp_path / "attempts").read_text().count("attempt") == 2
    assert "Ray Train's controller was lost: starting the workers again" in capfd.readouterr().err


class Someone:
    """An actor in a placement group."""

    def pid(self) -> int:
        return os.getpid()


def test_room_that_a_controller_left_taken_is_freed(cluster):
    """As of one that dies before all its workers have started: its group stays, and they do not."""
    ray.init(cluster.head.address, logging_level=logging.WARNING)
    groups = [placement_group([{"CPU": 1}]) for _ in range(2)]
    ray.get([group.ready() for group in groups])
    actor_class: Any = ray.remote(num_cpus=1)(Someone)
    placed = [PlacementGroupSchedulingStrategy(group) for group in groups]
    someone, other = (actor_class.options(scheduling_strategy=each).remote() for each in placed)
    ray.get([someone.pid.remote(), other.pid.remote()])
    free_left_behind()
    assert states(groups) == ["CREATED", "CREATED"]
    ray.kill(someone)
    deadline = time.monotonic() + 60
    while states(groups)[0] != "REMOVED" and time.monotonic() < deadline:  # it does not die at once
        free_left_behind()
    assert states(groups) == ["REMOVED", "CREATED"]
    remove_placement_group(groups[1])


def states(groups):
    return [placement_group_table(each)["state"] for each in groups]


LAYOUT = Layout(workers=1, max_failures=1, wait_seconds=0)


def losing(*errors: Exception):
    """An attempt that ends by these errors, then with the failures that it was allowed."""
    left = list(errors)

    def attempt(failures: int) -> int:
        if left:
            raise left.pop(0)
        return failures

    return attempt


def test_a_loss_is_one_of_the_failures_that_are_mended(cluster):
    ray.init(cluster.head.address, logging_level=logging.WARNING)
    assert through_losses(losing(), LAYOUT) == 1
    assert through_losses(losing(ActorDiedError()), LAYOUT) == 0
    with pytest.raises(Failure, match=r"controller was lost, and --layout.max-failures 1 are used up"):
        through_losses(losing(ActorDiedError(), ActorDiedError()), LAYOUT)


def test_a_controller_that_may_live_is_not_given_a_second():
    with pytest.raises(Failure, match="does not answer"):
        through_losses(losing(ActorUnavailableError("cut off", None)), LAYOUT)


def test_without_room_for_the_workers_it_ends(cluster):
    ray.init(cluster.head.address, logging_level=logging.WARNING)
    no_room = ControllerError(WorkerGroupStartupTimeoutError(64))
    with pytest.raises(Failure, match=r"could not be started: --layout.workers 64 asks for 64 workers"):
        through_losses(losing(no_room), Layout(workers=64, wait_seconds=0))


def test_an_error_of_the_controller_itself_is_a_bug(cluster):
    with pytest.raises(ControllerError):
        through_losses(losing(ControllerError(ValueError("a bug"))), LAYOUT)


class Heavy:
    """What a worker unpacks as it starts, for which it has no memory the first few times."""

    def __init__(self, tries: Path, failing: int) -> None:
        self._tries, self._failing = tries, failing

    def __reduce__(self) -> tuple[Any, ...]:
        return unpack, (str(self._tries), self._failing)


def unpack(tries: str, failing: int) -> str:
    if psutil.Process().cmdline()[0].startswith(WORKER):  # Ray's controller unpacks it as well
        with Path(tries).open("a") as file:
            file.write("x")
            if file.tell() <= failing:
                raise OSError(errno.ENOMEM, "failed to map segment from shared object")
    return tries


def read(_: Worker, tries: Any) -> str:
    return Path(tries).read_text()


@pytest.mark.usefixtures("cluster")
def test_workers_that_fail_as_they_start_are_started_again(tmp_path, capfd):
    tries = tmp_path / "tries"
    assert trainer.run(read, Heavy(tries, failing=1), Layout(max_failures=1)) == "xx"
    assert "a worker failed as it started (OSError: [Errno 12] failed to map segment" in capfd.readouterr().err


@pytest.mark.usefixtures("cluster")
def test_workers_that_never_start_are_told_with_the_reason(tmp_path):
    with pytest.raises(Failure, match=r"failed to map segment .*, and --layout.max-failures 0 are used up"):
        trainer.run(read, Heavy(tmp_path / "tries", failing=9), Layout(max_failures=0))


def test_a_head_that_is_away_for_long_is_told_once():
    """And one that answers again in time is not."""
    said: list[str] = []
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        head.listen()
        address = f"127.0.0.1:{head.getsockname()[1]}"
        thread = threading.Thread(target=_watch, args=(address, said.append, 3.0, threading.Event()))
        thread.start()
        time.sleep(5)
        assert said == []
    thread.join(15)
    assert said == [f"the head of the Ray cluster, {address}, has not answered for 3 s"]
