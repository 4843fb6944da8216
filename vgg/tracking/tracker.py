"""MLflow tracking that never holds a training up and loses nothing while the server is away.

Events go to a spool on disk; a thread delivers them. What is left when a training ends is delivered by
`python -m vgg.track SPOOL --uri URI`.
"""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file

from vgg.tracking.records import RunInfo
from vgg.tracking.sender import Sender, now, say
from vgg.tracking.spool import Spool
from vgg.tracking.system import SystemWatch
from vgg.weights.state import weights_sha256

Status = Literal["FINISHED", "FAILED", "KILLED"]


SYSTEM_SECONDS = 10.0


class Tracker:
    """Takes what a training has to tell; every call returns at once."""

    def __init__(self, folder: Path, uri: str, info: RunInfo, *, watch_system: bool = True) -> None:
        self.spool = Spool(folder)
        self.spool.write_json("run.json", asdict(info))
        self.spool.append({"kind": "status", "status": "RUNNING"})
        self.sender = Sender(self.spool, uri)
        self._painter = futures.ThreadPoolExecutor(1, thread_name_prefix="painter")
        self._drawings: list[futures.Future[None]] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self.sender.run, name="mlflow-sender", daemon=True),
        ]
        if watch_system:
            watch = threading.Thread(target=self._watch_system, name="system-metrics", daemon=True)
            self._threads.append(watch)
        for thread in self._threads:
            thread.start()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Points of these curves at this step."""
        points = {key: float(value) for key, value in values.items()}
        self.spool.append({"kind": "metrics", "step": step, "time": now(), "values": points})

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self.spool.append({"kind": "tags", "values": dict(values)})

    def figure(self, path: str, make: Callable[[], Figure]) -> None:
        """A picture at this artifact path, drawn on another thread."""

        def paint() -> None:
            file = self.spool.new_file(".png")
            make().savefig(file, dpi=110)
            self.spool.append({"kind": "artifact", "path": path, "file": file.name})

        drawing = self._painter.submit(paint)
        drawing.add_done_callback(_report_drawing_error)
        self._drawings = [*(each for each in self._drawings if not each.done()), drawing]

    def text(self, path: str, text: str) -> None:
        """A text file at this artifact path."""
        file = self.spool.new_file(Path(path).suffix)
        file.write_text(text, encoding="utf-8")
        self.spool.append({"kind": "artifact", "path": path, "file": file.name})

    def model(
        self,
        weights: dict[str, torch.Tensor],
        about: Mapping[str, Any],
        step: int,
        metrics: Mapping[str, float],
    ) -> None:
        """A net, with what it scored after `step` updates, as the LoggedModel `best`.

        `about` is kept with it: see `vgg.weights.trained_net.model_metadata`.
        """
        file = self.spool.new_file(".safetensors")
        save_file(weights, file)
        self.spool.append(
            {
                "kind": "model",
                "about": about,
                "weights_sha256": weights_sha256(weights),
                "file": file.name,
                "step": step,
                "time": now(),
                "metrics": dict(metrics),
            }
        )

    def scores(self, nets: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """What a test of these nets (digest of the weights -> name) came to."""
        event = {"kind": "scores", "nets": dict(nets), "time": now(), "metrics": dict(metrics)}
        self.spool.append(event)

    def close(self, status: Status, timeout_seconds: float) -> bool:
        """End the run; whether all was delivered in time. The rest stays in the spool."""
        deadline = time.monotonic() + timeout_seconds
        self._stop.set()
        _, undrawn = futures.wait(self._drawings, timeout_seconds)
        self._painter.shutdown(wait=False)
        self.spool.append({"kind": "status", "status": status, "time": now()})
        self.sender.finish.set()
        self._threads[0].join(max(0.0, deadline - time.monotonic()))
        if self.sender.done:
            return not undrawn
        self.sender.abandon()
        return False

    def _watch_system(self) -> None:
        watch, count = SystemWatch(), 0
        while not self._stop.wait(SYSTEM_SECONDS):
            self.metrics(count, watch.sample())
            count += 1


def _report_drawing_error(future: futures.Future[None]) -> None:
    error = future.exception()
    if error is not None:
        say(f"a picture could not be drawn: {error!r}")
