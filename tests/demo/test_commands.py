"""The demo's commands: how it ends with them, and what Ctrl-C does."""

import os
import signal
import subprocess
import sys

import pytest

from cli.errors import Failure
from demo.commands import run
from tests.conftest import ROOT


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_a_mistake_that_the_command_told_is_not_told_again(capfd):
    with pytest.raises(SystemExit) as ended:
        run(python("import sys; print('error: no such folder', file=sys.stderr); sys.exit(2)"))
    assert ended.value.code == 2
    assert capfd.readouterr().err == "error: no such folder\n"


def test_any_other_end_is_told_with_its_code():
    run(python("pass"))
    with pytest.raises(Failure, match=r"ended with exit code 3; its output is above"):
        run(python("import sys; sys.exit(3)"))


SLOW_TO_END = """
import time
try:
    print("at work", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(2)
    print("all is kept", flush=True)
"""
SCRIPT = f"""
import signal
from cli.command import exit_codes
from demo.commands import run
signal.signal(signal.SIGINT, signal.default_int_handler)
with exit_codes(interrupted="interrupted"):
    run({python(SLOW_TO_END)!r})
"""


def test_an_interrupted_command_ends_by_itself():
    with subprocess.Popen(
        python(SCRIPT),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        while demo.stdout.readline().strip() != "at work":
            assert demo.poll() is None
        os.killpg(demo.pid, signal.SIGINT)  # as a terminal does
        said = demo.stdout.read()
    assert demo.returncode == 130
    assert said == "all is kept\ninterrupted\n"
