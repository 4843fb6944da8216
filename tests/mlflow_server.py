"""A real MLflow server on loopback, on SQLite."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil

from cluster.processes import free_port

READY_SECONDS = 90.0


class MLflowServer:
    """Starts on a free port and can be killed and started again there; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "MLflowServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start, and return when it answers."""
        command = [
            str(Path(sys.executable).with_name("mlflow")),
            "server",
            f"--backend-store-uri=sqlite:///{self._folder}/mlflow.db",
            f"--artifacts-destination={self._folder}/artifacts",
            "--host=127.0.0.1",
            f"--port={self._port}",
            "--workers=1",
        ]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                assert self._process.poll() is None, (self._folder / "server.log").read_text()
                assert time.monotonic() < deadline, "the MLflow server did not come up"
                time.sleep(0.2)

    def kill(self) -> None:
        """A power cut: nothing is said to its clients."""
        if self._process is None:
            return
        family = [psutil.Process(self._process.pid)]
        family += family[0].children(recursive=True)
        for each in family:
            with suppress(psutil.NoSuchProcess):  # a child may have seen its parent end
                each.kill()
        self._process.wait()
        psutil.wait_procs(family, timeout=10)
        self._process = None
