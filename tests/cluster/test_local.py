"""`python -m cluster.local`: a cluster that outlives the command, found again by its state file."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cli.errors import Failure
from cluster import local
from cluster.nodes import Node
from cluster.processes import ProcessIdentity
from tests.conftest import ROOT


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["cluster.local", *map(str, arguments)])
    local.main()


def test_start_and_stop(monkeypatch, tmp_path, capsys):
    state = tmp_path / "below" / "cluster.json"
    run(monkeypatch, "start", "--state", state, "--cpus", 1)
    found = json.loads(state.read_text())
    node = Node(**found)
    try:
        assert list(found) == ["pid", "started", "address", "dashboard_url", "folder", "token_path"]
        assert node.alive()
        said = capsys.readouterr().out
        assert node.address in said
        assert f"RAY_AUTH_TOKEN_PATH={node.token_path}" in said
        assert Path(node.token_path).stat().st_mode & 0o777 == 0o600
        assert Path(node.folder).stat().st_mode & 0o777 == 0o700, "Ray opens its own folder to everybody"
        run(monkeypatch, "stop", "--state", state)
        assert not node.alive()
        assert not state.exists()
    finally:
        node.stop()


INTERRUPTED = """
import signal, sys
from cluster import local
signal.signal(signal.SIGINT, signal.default_int_handler)
local.main()
"""


def test_ctrl_c_leaves_no_half_started_node(tmp_path):
    command = [sys.executable, "-c", INTERRUPTED, "start", f"--state={tmp_path / 'cluster.json'}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as starting:
        while (
            len(started := psutil.Process(starting.pid).children(recursive=True)) < 2
        ):  # it and its first part
            assert starting.poll() is None
            time.sleep(0.05)
        node = [ProcessIdentity(each.pid, each.create_time()) for each in started]
        starting.send_signal(signal.SIGINT)
        assert starting.wait(60) != 0
    assert not any(each.alive() for each in node)


@pytest.mark.parametrize(("error", "code"), [(Failure("no answer"), 1), (ValueError("a bug"), None)])
def test_a_failure_is_one_line_and_a_bug_keeps_its_traceback(monkeypatch, tmp_path, capsys, error, code):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(local, "start_head", fail)
    with pytest.raises(SystemExit if code else ValueError) as raised:
        run(monkeypatch, "start", "--state", tmp_path / "cluster.json")
    if code:
        assert isinstance(raised.value, SystemExit)
        assert raised.value.code == code
        assert capsys.readouterr().err == "error: no answer\n"
    else:
        assert raised.value is error
