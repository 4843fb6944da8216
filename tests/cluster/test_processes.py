"""Processes are identified by PID and start time, and ended with all that they started; free ports."""

import os
import socket
import subprocess
import sys

import psutil
import pytest

from cluster.processes import ProcessIdentity, free_port, start_time, usual_port

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
        try:
            identity.terminate(grace_seconds=0.5)
            assert not identity.alive()
            assert not child.is_running()
        finally:
            parent.kill()
            if child.is_running():
                child.kill()


def test_a_port_is_free_again_as_soon_as_its_server_has_ended(capsys):
    """Though a connection that the server closed first stays in the system's table for a minute."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            server.accept()[0].close()
            assert client.recv(1) == b""
    with socket.socket() as strict, pytest.raises(OSError, match="in use"):
        strict.bind(("127.0.0.1", port))
    assert free_port(port) == port
    assert usual_port(port, "the server") == port
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_in_use_is_named_with_the_one_taken_instead(host, capsys):
    with socket.create_server((host, 0)) as server:
        port = server.getsockname()[1]
        other = usual_port(port, "the server")
    assert other != port
    assert capsys.readouterr().out == f"port {port} is in use: the server listens on {other}\n"
