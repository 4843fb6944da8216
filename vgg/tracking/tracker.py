"""MLflow tracking that never blocks a training and loses nothing while the server is away.

Events go to a spool on disk, and a thread delivers them. `python -m vgg.track SPOOL --uri URI` delivers what is
left when a training ends.
"""

import shlex
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from vgg.tracking.messages import print_message
from vgg.tracking.run_info import RunInfo, unix_time_ms
from vgg.tracking.sender import Sender
from vgg.tracking.spool import Spool
from vgg.tracking.system import SystemMonitor
from vgg.weights.state import weights_sha256

Status = Literal["FINISHED", "FAILED", "KILLED"]

SYSTEM_SAMPLE_SECONDS = 10.0
AWAY_SECONDS = 10.0
"""How long the end of a run waits for a server that does not answer."""


class Tracker:
    """Records one run. Every method but `close` returns without waiting for the server."""

    def __init__(self, folder: Path, uri: str, info: RunInfo, *, watch_system: bool = True) -> None:
        self.spool = Spool(folder)
        self.spool.describe(asdict(info))
        self.spool.append({"kind": "status", "status": "RUNNING", "time": unix_time_ms()})
        self.sender = Sender(self.spool, uri, info)
        self._closing = threading.Event()
        self._problem: str | None = None
        self._sender_thread = threading.Thread(target=self.sender.run, name="mlflow-sender", daemon=True)
        self._sender_thread.start()
        if watch_system:
            threading.Thread(target=self._sample_system, name="system-metrics", daemon=True).start()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log the value of each of these curves at this step."""
        event = {"kind": "metrics", "step": step, "time": unix_time_ms()}
        self.spool.append({**event, "values": {key: float(value) for key, value in values.items()}})

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self.spool.append({"kind": "tags", "values": dict(values)})

    def file(self, path: str, data: bytes) -> None:
        """Log a file at this artifact path. If the disk has no room for it, that is told."""
        file = self.spool.new_file(Path(path).suffix)
        try:
            with _removed_if_partial(file):
                file.write_bytes(data)
        except OSError as error:
            print_message(f"{path} is not tracked: {file} cannot be written ({error})")
            return
        self.spool.append({"kind": "artifact", "path": path, "file": file.name})

    def text(self, path: str, text: str) -> None:
        """Log a text file at this artifact path."""
        file = self.spool.new_file(Path(path).suffix)
        try:
            with _removed_if_partial(file):
                file.write_text(text, encoding="utf-8")
        except OSError:  # the disk is full, which the spool tells: it keeps events in memory
            self.spool.append({"kind": "artifact", "path": path, "text": text})
            return
        self.spool.append({"kind": "artifact", "path": path, "file": file.name})

    def model(
        self,
        weights: dict[str, torch.Tensor],
        about: Mapping[str, Any],
        step: int,
        metrics: Mapping[str, float],
    ) -> None:
        """Log a net after `step` updates, with its metrics, as a LoggedModel.

        `about` is stored with it: see `vgg.weights.trained_net.model_metadata`. If the disk has no room for it,
        there is none, which is told.
        """
        file = self.spool.new_file(".safetensors")
        try:
            with _removed_if_partial(file):
                save_file(weights, file)
        except (OSError, SafetensorError) as error:
            print_message(f"the net of step {step} is not tracked: {file} cannot be written ({error})")
            return
        self.spool.append(
            {
                "kind": "model",
                "about": about,
                "weights_sha256": weights_sha256(weights),
                "file": file.name,
                "step": step,
                "time": unix_time_ms(),
                "metrics": dict(metrics),
            }
        )

    def scores(self, nets: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """Log the metrics of a test of these nets (digest of the weights -> name)."""
        event = {"kind": "scores", "nets": dict(nets), "time": unix_time_ms(), "metrics": dict(metrics)}
        self.spool.append(event)

    def close(self, status: Status, timeout_seconds: float) -> bool:
        """End the run. Whether all was delivered within the timeout, or, of a server that is away, within
        `AWAY_SECONDS`; the rest stays in the spool."""
        deadline = time.monotonic() + timeout_seconds
        self._closing.set()
        self.spool.append({"kind": "status", "status": status, "time": unix_time_ms()})
        self.sender.finish.set()
        self._join_sender(deadline)
        if not self.sender.done:
            self.sender.abandon()
            self._problem = self.sender.problem or f"it took longer than {timeout_seconds:g} s"
        else:
            self._problem = None
        if lost := self.spool.lost_at_the_end():
            print_message(f"not all of the run is tracked: {lost}")
        return self._problem is None

    def _join_sender(self, deadline: float) -> None:
        answered = now = time.monotonic()
        while self._sender_thread.is_alive() and now < min(deadline, answered + AWAY_SECONDS):
            self._sender_thread.join(0.1)
            now = time.monotonic()
            if self.sender.problem is None:
                answered = now

    @property
    def undelivered(self) -> str:
        """After `close` has returned False: why, and how to deliver the rest."""
        spool, uri = shlex.quote(str(self.spool.folder)), self.sender.uri
        return (
            f"not everything is delivered: {self._problem}; deliver the rest later with: "
            f"python -m vgg.track {spool} --uri {uri} (on {socket.gethostname()})"
        )

    def _sample_system(self) -> None:
        monitor, step = SystemMonitor(), 0
        while not self._closing.wait(SYSTEM_SAMPLE_SECONDS):
            self.metrics(step, monitor.sample())
            step += 1


@contextmanager
def _removed_if_partial(file: Path) -> Iterator[None]:
    """Remove a file that could not be written completely."""
    try:
        yield
    except BaseException:
        file.unlink(missing_ok=True)
        raise
