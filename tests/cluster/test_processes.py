"""Processes are told apart by PID and start time, and ended with all that they started."""

import os
import subprocess
import sys

import psutil
import pytest

from cluster.processes import ProcessIdentity, start_time

# A parent that ignores SIGTERM, and its child.
STUBBORN = (
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(600)\n"
)


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def test_a_running_process_is_found_until_it_ends(sleeper):
    identity = ProcessIdentity(sleeper.pid, start_time(sleeper.pid))
    assert identity.alive()
    assert identity.process() == psutil.Process(sleeper.pid)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie from here on
    assert not identity.alive()
    sleeper.wait()
    assert not identity.alive()


def test_a_reused_pid_is_another_process(sleeper):
    earlier = ProcessIdentity(sleeper.pid, start_time(sleeper.pid) - 60)
    assert not earlier.alive()
    earlier.terminate(grace_seconds=1)
    assert sleeper.poll() is None


def test_what_ignores_sigterm_is_killed_with_its_children():
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        identity = ProcessIdentity(parent.pid, start_time(parent.pid))
        identity.terminate(grace_seconds=0.5)
        assert not identity.alive()
        assert not child.is_running()
