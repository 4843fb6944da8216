"""A training's progress: a bar on a terminal, a line a minute in a log."""

import io
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from cluster.layout import Worker
from tests.processes import job
from vgg.tracking import run_log
from vgg.tracking.progress_bar import progress_bar
from vgg.tracking.run_log import Progress, RunLog
from vgg.training.events import StepsDone

TOTAL = 168


@pytest.fixture
def told(digits, tmp_path):
    """A run log, and a list of what its worker tells."""
    messages: list[Any] = []

    def log(*, watched: bool) -> RunLog:
        worker = Worker(0, 1, 0, None, 1, messages.append if watched else None)  # type: ignore[arg-type]
        return RunLog(SimpleNamespace(job=job(digits, tmp_path), worker=worker))  # type: ignore[arg-type]

    return log, messages


def steps(step: int) -> StepsDone:
    return StepsDone(step, (2.0, 1.5), 3.0, 0.01, 4.0, 0.0)


def test_a_log_has_the_first_step_soon_another_then_a_line_a_minute_and_the_last(told, capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(run_log.time, "monotonic", lambda: clock[0])
    log = told[0](watched=False)
    for step in range(1, TOTAL + 1):
        clock[0] += 1
        log.handle(steps(step))
    lines = capsys.readouterr().out.splitlines()
    assert [int(re.findall(r"step (\d+)/168 ", line)[0]) for line in lines] == [1, 11, 71, 131, 168]
    assert ["at most" in line for line in lines] == [True, *[False] * 4]


def test_whoever_watches_is_told_instead(told, capsys):
    log = told[0](watched=True)
    log.handle(steps(1))
    log.handle(steps(2))
    assert capsys.readouterr().out == ""
    assert [message.step for message in told[1]] == [1, 2]
    assert told[1][1] == Progress(2, TOTAL, 1.5, 128.0, 332.0)


def test_a_terminal_has_a_bar_and_a_file_none():
    with progress_bar(Console(file=io.StringIO())) as listener:
        assert listener is None
    screen = io.StringIO()
    progress = Progress(42, TOTAL, 1.5, 128.0, 332.0)
    with progress_bar(Console(file=screen, force_terminal=True, width=120)) as listener:
        assert listener is not None
        listener(progress)
        listener(replace(progress, step=43))
    assert "step 43/168" in screen.getvalue()
    assert "loss 1.5000, 128 images/s, 0:05:32 left" in screen.getvalue()
