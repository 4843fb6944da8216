"""Tasks in processes: every one runs once, errors keep their type, a process that was killed ends the job."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from cli.errors import Failure, UserError
from cluster.hand_out import hand_out
from cluster.process_pool import run_in_processes
from tests.conftest import ROOT


def square(number: int) -> int:
    return number**2


def fail(error: Exception) -> None:
    raise error


def kill(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_no_more_tasks_are_submitted_than_there_are_slots():
    """And when one is done, the slot that ran it takes the next."""
    running, most = [], 0
    by_slot: dict[int, list[int]] = {0: [], 1: []}

    def slot(name):
        def submit(task):
            nonlocal most
            running.append(task)
            by_slot[name].append(task)
            most = max(most, len(running))
            return task

        return submit

    def wait(handles):
        return [max(handles)] if 0 in handles and len(handles) > 1 else handles[:1]  # task 0 is the last

    def result(handle):
        running.remove(handle)
        return handle * 10

    found = list(hand_out(range(6), [slot(0), slot(1)], wait=wait, result=result, cancel=running.remove))
    assert sorted(found) == [(task, 10 * task) for task in range(6)]
    assert found[-1] == (0, 0)
    assert most == 2
    assert by_slot == {0: [0], 1: [1, 2, 3, 4, 5]}


@pytest.mark.parametrize("ended", ["closed", "error"])
def test_running_tasks_are_cancelled_when_the_loop_ends_early(ended):
    cancelled: list[int] = []

    def result(handle):
        if ended == "error" and handle == 1:
            raise ValueError("a bug")
        return handle

    loop = hand_out(
        range(9), [int, int, int], wait=lambda handles: handles[:1], result=result, cancel=cancelled.append
    )
    assert next(loop) == (0, 0)
    if ended == "closed":
        loop.close()  # type: ignore[attr-defined]  # a generator
        assert cancelled == [1, 2, 3]
    else:
        with pytest.raises(ValueError, match="a bug"):
            next(loop)
        assert cancelled == [2, 3]


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_return_every_result(workers):
    assert sorted(run_in_processes(square, range(20), workers)) == [(i, i * i) for i in range(20)]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_process_keeps_its_type(workers):
    error = UserError("the data is damaged") if workers == 1 else ValueError("a bug")
    with pytest.raises(type(error)) as raised:
        list(run_in_processes(fail, [error, error], workers))
    assert type(raised.value) is type(error)
    assert raised.value.args == error.args


def test_a_killed_process_is_a_failure():
    with pytest.raises(Failure, match="a process was killed"):
        list(run_in_processes(kill, [0, 1], 2))


MAIN = """
import time
from cluster.process_pool import run_in_processes
if __name__ == "__main__":
    print("ready", flush=True)
    list(run_in_processes(time.sleep, [300.0] * 4, 2))
"""


def test_a_killed_main_process_leaves_no_children(tmp_path):
    (tmp_path / "main.py").write_text(MAIN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    main = subprocess.Popen([sys.executable, tmp_path / "main.py"], env=environment, stdout=subprocess.PIPE)
    children: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 60
        while sum("spawn_main" in " ".join(child.cmdline()) for child in children) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
            children = psutil.Process(main.pid).children(recursive=True)
        time.sleep(3)  # until they run their tasks
        main.kill()
        main.wait()
        _, alive = psutil.wait_procs(children, timeout=20)
        assert alive == []
    finally:
        main.kill()
        for child in children:
            if child.is_running():
                child.kill()
