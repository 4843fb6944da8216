"""A server counts as ready when it answers, and is no longer waited for once its process has ended."""

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cli.errors import Failure
from cluster.nodes import Host, start_head
from cluster.processes import ProcessIdentity, free_port, start_time
from cluster.readiness import http_server_answers, wait_until_ready


@contextmanager
def http_server(status):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(("status", "answers"), [(200, True), (401, True), (403, False), (503, False)])
def test_a_server_that_asks_for_a_token_is_up(status, answers):
    with http_server(status) as url:
        assert http_server_answers(url) is answers


def test_a_port_that_nothing_listens_on_does_not_answer():
    assert not http_server_answers(f"http://127.0.0.1:{free_port()}")


@pytest.fixture
def this_process():
    return ProcessIdentity(os.getpid(), start_time(os.getpid()))


def test_it_polls_until_the_server_is_ready(this_process):
    outcomes = iter([False, False, True])
    assert wait_until_ready(this_process, lambda: next(outcomes), timeout_seconds=30)
    assert next(outcomes, "none left") == "none left"


def test_it_gives_up_at_the_timeout(this_process):
    began = time.monotonic()
    assert not wait_until_ready(this_process, lambda: False, timeout_seconds=0.5)
    assert 0.5 <= time.monotonic() - began < 5


def test_a_server_that_ended_is_not_waited_for():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        identity = ProcessIdentity(process.pid, start_time(process.pid))
        began = time.monotonic()
        assert not wait_until_ready(identity, lambda: False, timeout_seconds=60)
        assert time.monotonic() - began < 30


def test_a_head_node_that_cannot_start_is_a_failure_with_its_log():
    prefix = ("sh", "-c", "echo no room for sockets; exit 3", "sh")
    with pytest.raises(Failure, match="did not answer at http://127") as raised:
        start_head(1, host=Host(command_prefix=prefix))
    assert "no room for sockets" in str(raised.value)
