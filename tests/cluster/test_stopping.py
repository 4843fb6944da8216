"""How long a signal waits for workers that do not end: until the grace is over, or a second one."""

import signal
import subprocess
import sys
import time

import pytest

from tests import entry_point
from tests.conftest import ROOT

SHORT_SECONDS, LONG_SECONDS = 4.0, 200.0


@pytest.mark.parametrize(
    ("number", "grace_seconds", "signals"),
    [(signal.SIGTERM, SHORT_SECONDS, 1), (signal.SIGINT, LONG_SECONDS, 2)],
)
def test_the_command_ends_without_its_workers(ray_cluster, tmp_path, number, grace_seconds, signals):
    marker, log = tmp_path / "marker", tmp_path / "log"
    command = [sys.executable, "-m", "tests.cluster.stubborn", str(marker), str(grace_seconds)]
    with log.open("w") as file:
        env = entry_point.environment(ray_cluster.head)
        running = subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=file)
    try:
        wait_until(marker.exists, running, log)
        running.send_signal(number)
        asked_at = time.monotonic()
        wait_until(lambda: "saving this step, for at most" in log.read_text(), running, log)
        if signals == 2:
            running.send_signal(number)
        assert running.wait(60) == 128 + number, log.read_text()
        seconds = time.monotonic() - asked_at
    finally:
        running.kill()
        running.wait()
    if signals == 1:
        assert seconds > SHORT_SECONDS
        assert f"did not end within --layout.grace-seconds {SHORT_SECONDS:g}" in log.read_text()
    else:
        assert seconds < LONG_SECONDS / 4
        assert "did not end within" not in log.read_text()


def wait_until(ready, running, log):
    deadline = time.monotonic() + 120
    while not ready():
        assert running.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
