"""Pictures that are drawn in another process: the same files, and no problem of theirs is the training's."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.conftest import ROOT
from vgg.pictures.curves import training_curves
from vgg.pictures.drawing import NICENESS, DrawingProcess, NotDrawn
from vgg.pictures.png import as_png

CURVES = (3.0, 2.5, 2.0), ()


@pytest.fixture(scope="module")
def process():
    drawing = DrawingProcess()
    yield drawing
    drawing.close()


def child() -> psutil.Process:
    """The process that draws; other tests' pools may have left theirs running."""
    (found,) = [each for each in multiprocessing.active_children() if each.name == "pictures"]
    return psutil.Process(found.pid)


def test_the_file_is_that_of_this_process(process):
    assert process.png(training_curves, *CURVES) == as_png(training_curves(*CURVES))
    assert child().nice() >= min(psutil.Process().nice() + NICENESS, 19)


def test_what_cannot_be_drawn_is_told_and_the_next_is_drawn(process):
    with pytest.raises(NotDrawn, match=r"TypeError\("):
        process.png(math.sqrt, "two")
    with pytest.raises(NotDrawn, match=r"AttributeError|TypeError"):
        process.png(math.sqrt, 2)  # a number is no figure
    assert process.png(training_curves, *CURVES)


def test_a_process_that_is_killed_is_told_and_started_again(process):
    process.png(training_curves, *CURVES)
    child().send_signal(signal.SIGKILL)
    with pytest.raises(NotDrawn, match=r"has ended \(-9\)"):
        process.png(training_curves, *CURVES)
    with pytest.raises(NotDrawn, match=r"has ended \(3\)"):
        process.png(os._exit, 3)
    assert process.png(training_curves, *CURVES)


def test_it_ends_with_a_process_that_is_killed():
    program = (
        "import os, signal\n"
        "from vgg.pictures.curves import training_curves\n"
        "from vgg.pictures.drawing import DrawingProcess\n"
        "drawing = DrawingProcess()\n"
        f"drawing.png(training_curves, *{CURVES})\n"
        "print(drawing._running.process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while psutil.pid_exists(int(done.stdout)):
        assert time.monotonic() < deadline, "it draws for nobody"
        time.sleep(0.05)
