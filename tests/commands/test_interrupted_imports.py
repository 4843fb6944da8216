"""Ctrl-C while a command still imports its libraries: a line, no traceback, an interruption's exit code."""

import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT

LIBRARY = """\
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep(30)
"""
SWALLOWING = """\
try:
    import os, signal, time
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
except BaseException as error:
    raise ImportError("this library could not be loaded") from error
"""


def run(module, library, folder):
    """A command whose tyro, which every command imports, is this library."""
    (folder / "tyro.py").write_text(library)
    return subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("module", ["vgg.predict", "vgg.evaluate", "pipelines.pack"])
@pytest.mark.parametrize("library", [LIBRARY, SWALLOWING], ids=["interrupted", "import error"])
def test_an_interrupted_import_is_a_line(module, library, tmp_path):
    done = run(module, library, tmp_path)
    assert done.stderr == "interrupted\n"
    assert done.returncode in (130, -signal.SIGINT, 1 if library is SWALLOWING else 130)


def test_any_other_error_keeps_its_traceback(tmp_path):
    done = run("vgg.predict", "raise ValueError('a bug')", tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ValueError: a bug" in done.stderr
