"""A training leaves a node that is about to go: nothing is lost, and the same command goes on elsewhere."""

import json
import subprocess
import sys
import time

import pytest

from cluster.namespaces import Network
from cluster.nodes import start_head
from tests import entry_point
from tests.conftest import ROOT, needs_namespaces
from tests.joined import joined


@pytest.mark.faults
@needs_namespaces
def test_a_node_that_leaves_hands_its_training_on(digits, tmp_path):
    """The head has no CPU; the first node runs the worker, the second is there when the first goes."""
    with Network(3) as network:
        hosts = [network.host(i) for i in range(3)]
        nodes = [start_head(0, host=hosts[0])]
        environment = entry_point.environment(nodes[0])
        try:
            nodes.append(joined(nodes[0], hosts[1]))
            log = tmp_path / "log"
            flags = ["--layout.workers=1", "--layout.wait-seconds=120", "--train.steps=150"]
            command = entry_point.command(digits, tmp_path / "out", *flags)
            with log.open("w") as file:
                training = subprocess.Popen(
                    [*hosts[0].command_prefix, *command], cwd=ROOT, env=environment, stdout=file, stderr=file
                )
            wait_for(lambda: "step 1/" in log.read_text(), training)
            nodes.append(joined(nodes[0], hosts[2]))
            leaving = [*hosts[1].command_prefix, sys.executable, "-m", "cluster.leave", "node", "--seconds=60"]
            left = subprocess.run(
                leaving, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
            assert left.returncode == 0, left.stderr
            assert training.wait(300) == 0, log.read_text()
        finally:
            for node in reversed(nodes):
                node.stop()
    said, result = log.read_text(), json.loads((tmp_path / "out" / "result.json").read_text())
    (step,) = result["resumed_from"]
    assert f"a node is about to go: step {step} is kept" in said
    assert len(result["losses"]) == 150


def wait_for(there, training, seconds=300):
    deadline = time.monotonic() + seconds
    while not there():
        assert training.poll() is None, "it ended"
        assert time.monotonic() < deadline
        time.sleep(0.1)
