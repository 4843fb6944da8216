"""A cluster of a command's own is told, and one that does not start. Ray is replaced: its half minute cannot be
made."""

import os
import subprocess
import sys

import pytest

from cluster.connection import OWN_CLUSTER

SCRIPT = """
import ray
from cli.command import exit_codes
from cluster.connection import _start_in_this_process

def init(**_):
    raise {raised}("the node timed out.")

ray.init = init
with exit_codes():
    _start_in_this_process()
"""


@pytest.mark.parametrize(("raised", "is_told"), [("Exception", True), ("ArithmeticError", False)])
def test_a_cluster_that_does_not_start_is_told(raised, is_told, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(raised=raised)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == OWN_CLUSTER
    assert ("a Ray cluster did not start on this machine: the node timed out. Repeat" in done.stderr) == is_told
    assert ("Traceback" in done.stderr) != is_told
    assert list(tmp_path.iterdir()) == [], "the token is removed"
