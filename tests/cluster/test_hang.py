"""A worker that does not go on is named: which one, from what all have told, and by its process."""

import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace

import psutil
import pytest
import ray

from cluster import hang as hang_module
from cluster import newcomers, trainer
from cluster import progress as progress_module
from cluster.attendant import inspect, kill, working_thread
from cluster.collectives import everyones
from cluster.hang import (
    LOST_STEPS,
    NAMED_SECONDS,
    SLOW_STEPS,
    UNHEARD_SECONDS,
    Beat,
    GoesOn,
    HangWatch,
    Heard,
    Lost,
    Named,
)
from cluster.layout import Layout, Worker
from cluster.processes import ProcessIdentity, start_time
from cluster.progress import Part, Position, Progress
from cluster.watching import description
from tests.ray_workers import workers_of

HANG_SECONDS = 60.0


def heard(rank, step, part, seconds, age_s=0.5, step_seconds: float | None = 0.2, pid=100):
    beat = Beat(
        rank,
        ProcessIdentity(pid + rank, 0.0),
        "node",
        "10.0.0.1",
        Position(step, part, seconds, step_seconds),
        "in sleep",
    )
    return Heard(beat, age_s)


def look(*all_heard, watch=None):
    return (watch or HangWatch(HANG_SECONDS)).look(all_heard)


def named(found):
    return [each.heard.beat.rank for each in found if isinstance(each, Named)]


LONG = NAMED_SECONDS + 1


def test_one_that_has_not_begun_is_behind_those_that_have():
    starting = hang_module.OTHERS[Part.STARTING]
    waiting = heard(0, 0, Part.OPENING, 500.0, step_seconds=None)

    def newcomer(seconds):
        found = heard(1, 0, Part.STARTING, seconds, age_s=0.0, step_seconds=None)
        return replace(found, beat=replace(found.beat, rank=None))

    watch = HangWatch(HANG_SECONDS)
    assert look(waiting, newcomer(starting.named_s - 1), watch=watch) == []
    assert named(look(waiting, newcomer(starting.named_s + 1), watch=watch)) == [None]
    assert look(waiting, newcomer(starting.least_s - 1), watch=watch) == []
    (lost,) = look(waiting, newcomer(starting.least_s + 1), watch=watch)
    assert isinstance(lost, Lost)
    (goes_on,) = look(waiting, heard(1, 0, Part.OPENING, 0.0, step_seconds=None), watch=watch)
    assert isinstance(goes_on, GoesOn)


def test_all_that_work_are_let_work():
    assert look(heard(0, 7, Part.EXCHANGE, LONG), heard(1, 7, Part.COMPUTE, 0.3)) == []


@pytest.mark.parametrize(
    ("steps", "parts", "expected"),
    [
        ((7, 7), (Part.EXCHANGE, Part.DATA), [1]),
        ((7, 7), (Part.COMPUTE, Part.EXCHANGE), [0]),
        ((8, 7), (Part.DATA, Part.EXCHANGE), [1]),
        ((7, 7), (Part.EXCHANGE, Part.EXCHANGE), [0, 1]),
    ],
)
def test_who_is_furthest_behind_is_named(steps, parts, expected):
    assert named(look(heard(0, steps[0], parts[0], LONG), heard(1, steps[1], parts[1], LONG))) == expected


def test_silence_names_whatever_the_others_wait_in():
    assert named(look(heard(0, 7, Part.DATA, LONG), heard(1, 7, Part.EXCHANGE, 0.1, age_s=LONG))) == [1]


@pytest.mark.parametrize(
    ("part", "step_seconds", "seconds"),
    [
        (Part.COMPUTE, 2.0, 2.0 * SLOW_STEPS - 1),
        (Part.COMPUTE, None, 100.0),
        (Part.OPENING, None, 1e6),
        (Part.VALIDATING, 0.2, 55.0),
        (Part.SAVING, 0.2, 115.0),
        (Part.ENDING, 0.2, 1e6),
    ],
)
def test_what_takes_long_has_a_patience_of_its_own(part, step_seconds, seconds):
    """The first step may compile the net, staging takes hours."""
    assert look(heard(0, 7, part, seconds, step_seconds=step_seconds)) == []


def test_silence_while_saving_is_as_in_a_step():
    assert named(look(heard(0, 7, Part.SAVING, 1.0, age_s=LONG))) == [0]


def test_silence_too_has_a_patience_before_the_first_steps():
    assert look(heard(0, 0, Part.OPENING, 1.0, age_s=UNHEARD_SECONDS - 1, step_seconds=None)) == []
    assert named(look(heard(0, 0, Part.OPENING, 1.0, age_s=UNHEARD_SECONDS + 1, step_seconds=None))) == [0]


def test_it_is_named_once_and_so_is_its_going_on():
    watch = HangWatch(HANG_SECONDS)
    assert named(look(heard(0, 7, Part.DATA, LONG), watch=watch)) == [0]
    assert look(heard(0, 7, Part.DATA, LONG + 1), watch=watch) == []
    (found,) = look(heard(0, 8, Part.DATA, 0.0), watch=watch)
    assert isinstance(found, GoesOn)
    assert found.after_s == pytest.approx(LONG + 1.5)
    assert named(look(heard(0, 8, Part.DATA, LONG), watch=watch)) == [0]


def test_one_that_is_gone_does_not_go_on():
    watch = HangWatch(HANG_SECONDS)
    look(heard(0, 7, Part.DATA, LONG), watch=watch)
    assert look(watch=watch) == []


@pytest.mark.parametrize(
    ("part", "step_seconds", "least"),
    [
        (Part.DATA, 0.2, HANG_SECONDS),
        (Part.DATA, 30.0, 30.0 * LOST_STEPS),
        (Part.DATA, None, 1800.0),
        (Part.SAVING, 0.2, 900.0),
    ],
)
def test_it_is_lost_after_the_time_asked_for_or_that_of_its_part(part, step_seconds, least):
    watch = HangWatch(HANG_SECONDS)
    early, late = (
        look(heard(0, 7, part, least + more, age_s=0.0, step_seconds=step_seconds), watch=watch)
        for more in (-1, 1)
    )
    assert named(early) == [0]
    assert [type(each) for each in late] == [Lost]
    assert look(heard(0, 7, part, least + 2, step_seconds=step_seconds), watch=watch) == []


def test_a_silent_one_is_lost_wherever_it_is():
    found = look(heard(0, 0, Part.OPENING, 1.0, age_s=HANG_SECONDS + 1, step_seconds=None))
    assert [type(each) for each in found] == [Named, Lost]


def test_nobody_is_lost_where_the_user_wants_none_killed():
    found = look(heard(0, 7, Part.DATA, 1e6), watch=HangWatch(0.0))
    assert [type(each) for each in found] == [Named]


def test_progress_counts_steps_of_late_and_the_seconds_of_each_part(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    progress = Progress()
    for step, seconds in enumerate([8.0, 1.0, 4.0, 2.0], start=1):
        progress.begin_step(step)
        assert progress.position() == Position(step, Part.DATA, 0.0, [None, None, 1.5, 4.5][step - 1])
        now[0] += seconds
        progress.enter(Part.COMPUTE)
        with progress.at(Part.EXCHANGE):
            now[0] += 0.5
        assert progress.position().part == Part.COMPUTE
    progress.enter(Part.SAVING)
    now[0] += 100.0
    progress.begin_step(5)
    assert progress.position().step_seconds == pytest.approx(0.9 * 4.5)  # of a step before the last
    assert progress.spent() == [15.0, 0.0, 2.0]
    assert progress.spent() == [0.0, 0.0, 0.0]


SLEEPER = """
import threading, time
def asleep_at_noon():
    print("there", flush=True)
    time.sleep(60)
thread = threading.Thread(target=asleep_at_noon, name="TrainingThread(loop)")
thread.start()
"""


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    yield ProcessIdentity(process.pid, start_time(process.pid))
    process.kill()
    process.wait()
    process.stdout.close()


def until(holds, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def found_of(process):
    found = inspect(process)
    assert found is not None
    return found


def test_a_stopped_process_is_called_that_and_stays_stopped(sleeper):
    assert found_of(sleeper)[0] == ""
    sleeper.process().send_signal(signal.SIGSTOP)
    until(lambda: sleeper.process().status() == "stopped")
    state, stack = found_of(sleeper)
    assert "SIGSTOP" in state
    assert "asleep_at_noon" in stack
    assert "MainThread" not in stack
    assert sleeper.process().status() == "stopped"
    assert kill(sleeper)
    until(lambda: not sleeper.alive())
    assert inspect(sleeper) is None
    assert not kill(sleeper)


def test_another_process_of_the_same_number_is_left_alone(sleeper):
    other = ProcessIdentity(sleeper.pid, sleeper.started - 1000)
    assert inspect(other) is None
    assert not kill(other)
    assert sleeper.alive()


def test_a_dump_without_a_known_thread_is_shown_as_it_is():
    dump = 'Process 1\n\nThread 1 (idle): "MainThread"\n    f (a.py:1)'
    assert working_thread(dump) == dump


def test_what_is_said():
    said = description(Named(heard(1, 1200, Part.DATA, 6.0), 0), "", "by py-spy")
    assert said == (
        "rank 1 (PID 101 on node 10.0.0.1) does not go on: step 1,200, waiting for data, for 6 s; "
        "its stack:\nin sleep"
    )
    silent = Named(heard(1, 3, Part.COMPUTE, 1.0, age_s=7.0), 0)
    said = description(silent, "its process is stopped", "by py-spy")
    assert said == (
        "rank 1 (PID 101 on node 10.0.0.1) does not go on: nothing heard of it for 7 s, then at step 3, "
        "forward and backward; its process is stopped; its stack:\nby py-spy"
    )


def dawdling(worker: Worker, job: float) -> int:
    """Steps, in the fourth of which rank 1 sleeps over its data."""
    for step in range(1, 6):
        worker.progress.begin_step(step)
        if step == 4 and worker.rank == 1:
            time.sleep(job)
        worker.progress.enter(Part.COMPUTE)
        with worker.progress.at(Part.EXCHANGE):
            everyones(step)
    return worker.rank


def test_a_worker_that_sleeps_is_named_on_a_real_cluster(ray_cluster, monkeypatch, capfd):
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.head.address)
    ray.shutdown()
    said: list[tuple[float, str]] = []
    try:
        layout = Layout(workers=2)
        trainer.run(dawdling, 14.0, layout, on_hang=lambda text: said.append((time.monotonic(), text)))
    finally:
        ray.shutdown()
    ((_, text),) = said
    assert "rank 1 (PID" in text
    assert "step 4, waiting for data" in text
    assert "time.sleep(job)" in text
    errors = capfd.readouterr().err
    assert text in errors
    assert "rank 1 (PID" in errors.partition("goes on, after")[0]
    assert "hang-watch" not in [thread.name for thread in threading.enumerate()]


def ranks(worker: Worker, _: None) -> int:
    """Of all workers, summed."""
    return everyones(worker.rank)[-1]


def stop_the_first_worker(cluster, stopped, ended):
    """SIGSTOP as soon as there is one."""
    while not ended.wait(0.05):
        for process in workers_of(cluster):
            with suppress(psutil.NoSuchProcess):
                process.suspend()
                stopped.append(process.pid)
                return


def test_a_worker_that_is_stopped_before_it_begins_is_named_and_replaced(ray_cluster, monkeypatch, capfd):
    """Ray waits for it without end. The other worker waits with it: the one that has been there for longer is
    killed first, upon which Ray ends both."""
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.head.address)
    monkeypatch.setattr(newcomers, "QUIET_SECONDS", 3.0)
    monkeypatch.setitem(hang_module.OTHERS, Part.STARTING, hang_module.Patience(5.0, 40.0))
    said: list[str] = []
    stopped: list[int] = []
    ended = threading.Event()
    watcher = threading.Thread(target=stop_the_first_worker, args=(ray_cluster, stopped, ended))
    ray.shutdown()
    watcher.start()
    try:
        layout = Layout(workers=2, hang_seconds=1, max_failures=1)
        assert trainer.run(ranks, None, layout, on_hang=said.append) == 1
    finally:
        ended.set()
        watcher.join()
        ray.shutdown()
    (pid,) = stopped
    (text,) = [each for each in said if f"PID {pid} " in each]
    assert text.startswith(f"a worker (PID {pid} on node ")
    assert "does not go on: starting: process, libraries, process group, for " in text
    assert "its process is stopped (SIGSTOP)" in text
    killed = r"a worker \(PID \d+ on node 127\.0\.0\.1\) is killed after --layout\.hang-seconds 1"
    assert re.search(killed, capfd.readouterr().err)
    assert not psutil.pid_exists(pid)
