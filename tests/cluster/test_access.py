"""Who reaches a cluster that our commands start, on a machine with a default route, and who is let in."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from cluster.nodes import Host, Node, start_head
from tests.cluster.two_machines import ADDRESSES, TwoMachines
from tests.conftest import ROOT, needs_namespaces

pytestmark = [
    needs_namespaces,
    pytest.mark.skipif(shutil.which("ss") is None, reason="listeners are listed by ss of iproute2"),
]
RAY = str(Path(sys.executable).with_name("ray"))
WORK = """
import sys, time, ray
from cluster.connection import connect
connect()
print(ray.get(ray.remote(lambda: 6 * 7).remote()), flush=True)
sys.stdin.read()
"""
JOIN = "import sys, ray; ray.init(address=sys.argv[1]); print(ray.get(ray.remote(lambda: 6 * 7).remote()))"
WRONG = "f" * 64
REFUSED = re.compile("InvalidAuthToken|Missing authentication token|Invalid authentication token")


@pytest.fixture(scope="module")
def machines():
    with TwoMachines() as both:
        yield both


def bare_environment(home: Path) -> dict[str, str]:
    """Of somebody who knows nothing of any cluster."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "HOME": str(home)}


def assert_closed(machines: TwoMachines) -> None:
    """Every listener of the first machine is on loopback, once all have come up."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        found = machines.listeners(0)
        assert found, "the cluster listens nowhere"
        assert {(address, port) for address, port in found if address != "127.0.0.1"} == set()
        time.sleep(1)
    assert machines.reachable({port for _, port in found}) == set()


def test_a_started_cluster_listens_on_loopback_alone(machines, tmp_path):
    state = tmp_path / "cluster.json"
    local = [*machines.on(0), sys.executable, "-m", "cluster.local"]
    env = bare_environment(tmp_path)
    subprocess.run([*local, "start", f"--state={state}", "--cpus=1"], cwd=ROOT, env=env, check=True)
    node = Node(**json.loads(state.read_text()))
    try:
        given = {**env, **node.access()}
        with subprocess.Popen(
            [*machines.on(0), sys.executable, "-c", WORK],
            cwd=ROOT,
            env=given,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as driver:
            assert driver.stdout is not None
            assert driver.stdout.readline() == b"42\n"
            assert_closed(machines)
    finally:
        node.stop()


@pytest.fixture
def short_folder():
    """Ray's Unix sockets go there: pytest's own paths are too long for them."""
    with tempfile.TemporaryDirectory(prefix="vgg", dir="/tmp") as folder:
        yield Path(folder)


def test_a_cluster_inside_a_process_listens_on_loopback_alone(machines, tmp_path, short_folder):
    """The one that a command starts where there is none; it leaves no token."""
    env = {**bare_environment(tmp_path), "TMPDIR": str(short_folder)}
    with subprocess.Popen(
        [*machines.on(0), sys.executable, "-c", WORK],
        cwd=ROOT,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"42\n"
        (token,) = short_folder.glob("ray-token-*/auth_token")
        assert token.stat().st_mode & 0o777 == 0o600
        assert_closed(machines)
    assert not token.exists()
    assert not (tmp_path / ".ray").exists(), "no token for every cluster of this user"


def attempts(node: Node, folder: Path) -> dict[str, list[str]]:
    """What somebody on another machine may try."""
    submit = [RAY, "job", "submit", "--address", node.dashboard_url, "--", "touch", f"{folder}/ran"]
    return {
        "join": [RAY, "start", "--address", node.address, "--node-ip-address", ADDRESSES[1], "--num-cpus=1"],
        "init": [sys.executable, "-c", JOIN, node.address],
        "list": [RAY, "job", "list", "--address", node.dashboard_url],
        "submit": submit,
    }


def test_only_the_token_lets_in_from_another_machine(machines, tmp_path):
    """A cluster at the machine's own address, as on several nodes: its ports are open, and ask."""
    node = start_head(1, host=Host(ADDRESSES[0], machines.on(0)))
    bare = bare_environment(tmp_path)
    wrong = {**bare, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": WRONG}
    try:
        tried = {
            (who, what): subprocess.Popen(
                [*machines.on(1), "timeout", "150", *command],
                env=env,
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for who, env in (("nobody", bare), ("wrong token", wrong))
            for what, command in attempts(node, tmp_path).items()
        }
        for key, process in tried.items():
            said, _ = process.communicate()
            assert process.returncode != 0, (key, said)
            assert REFUSED.search(said), (key, said)
        assert not (tmp_path / "ran").exists()
        commands = attempts(node, tmp_path)
        for what in ("list", "submit", "init"):
            done = subprocess.run(
                [*machines.on(1), "timeout", "150", *commands[what]],
                env={**bare, **node.access()},
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, (what, done.stdout, done.stderr)
        assert (tmp_path / "ran").exists()
    finally:
        node.stop()
