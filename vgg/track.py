"""MLflow tracking that never holds a training up and loses nothing while the server is away.

Events go to a spool on disk; a thread delivers them. What is left when a training ends is delivered by
`python -m vgg.track SPOOL --uri URI`.
"""

import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import pynvml
import requests
import torch
import tyro
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file

from vgg.model import VGG, Architecture
from vgg.spool import Spool

# Read by MLflow's client when it is first used: a server that is down must be noticed at once, since the
# sender itself retries.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

Status = Literal["FINISHED", "FAILED", "KILLED"]
SYSTEM_SECONDS = 10.0
PARAM_LENGTH, DIGEST_LENGTH = 6000, 36  # MLflow's limits


@dataclass(frozen=True)
class RunInfo:
    """What a tracked run is, and where it belongs."""

    uid: str
    """Found by this tag when a training is taken up again."""
    experiment: str
    name: str
    tags: dict[str, str]
    params: dict[str, str]
    data_name: str
    data_digest: str
    data_source: str


class Tracker:
    """Takes what a training has to tell; every call returns at once."""

    def __init__(self, folder: Path, uri: str, info: RunInfo) -> None:
        self.spool = Spool(folder)
        self.spool.write_json("run.json", asdict(info))
        self.sender = Sender(self.spool, uri)
        self._painter = ThreadPoolExecutor(1, thread_name_prefix="painter")
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self.sender.run, name="mlflow-sender", daemon=True),
            threading.Thread(target=self._watch_system, name="system-metrics", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Points of these curves at this step."""
        self.spool.append({"kind": "metrics", "step": step, "time": _now(), "values": dict(values)})

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self.spool.append({"kind": "tags", "values": dict(values)})

    def figure(self, path: str, make: Callable[[], Figure]) -> None:
        """A picture at this artifact path, drawn on another thread."""

        def paint() -> None:
            file = self.spool.new_file(".png")
            make().savefig(file, dpi=110)
            self.spool.append({"kind": "artifact", "path": path, "file": file.name})

        self._painter.submit(paint).add_done_callback(_tell)

    def text(self, path: str, text: str) -> None:
        """A text file at this artifact path."""
        file = self.spool.new_file(Path(path).suffix)
        file.write_text(text)
        self.spool.append({"kind": "artifact", "path": path, "file": file.name})

    def model(
        self,
        architecture: Architecture,
        weights: dict[str, torch.Tensor],
        step: int,
        metrics: Mapping[str, float],
    ) -> None:
        """A net, with what it scored after `step` updates, as the LoggedModel `best`."""
        file = self.spool.new_file(".safetensors")
        save_file(weights, file)
        self.spool.append(
            {
                "kind": "model",
                "architecture": asdict(architecture),
                "file": file.name,
                "step": step,
                "metrics": dict(metrics),
            }
        )

    def close(self, status: Status, timeout_seconds: float) -> bool:
        """End the run; whether all was delivered in time. The rest stays in the spool."""
        deadline = time.monotonic() + timeout_seconds
        self._stop.set()
        self._painter.shutdown()
        self.spool.append({"kind": "end", "status": status, "time": _now()})
        self.sender.finish.set()
        self._threads[0].join(max(0.0, deadline - time.monotonic()))
        if not self._threads[0].is_alive():
            return True
        self.sender.abandon()
        return False

    def _watch_system(self) -> None:
        """Under MLflow's own names, so that its page of system metrics shows them."""
        network = psutil.net_io_counters()
        psutil.cpu_percent()
        count = 0
        while not self._stop.wait(SYSTEM_SECONDS):
            memory, disk, now = psutil.virtual_memory(), psutil.disk_usage("/"), psutil.net_io_counters()
            values = {
                "cpu_utilization_percentage": psutil.cpu_percent(),
                "system_memory_usage_megabytes": memory.used / 1e6,
                "system_memory_usage_percentage": memory.percent,
                "disk_usage_percentage": disk.percent,
                "disk_available_megabytes": disk.free / 1e6,
                "network_receive_megabytes": (now.bytes_recv - network.bytes_recv) / 1e6,
                "network_transmit_megabytes": (now.bytes_sent - network.bytes_sent) / 1e6,
                **_gpus(),
            }
            self.metrics(count, {f"system/{name}": value for name, value in values.items()})
            count += 1


class Sender:
    """Delivers a spool to an MLflow server, in order, for as long as it takes."""

    def __init__(self, spool: Spool, uri: str) -> None:
        self.spool, self.uri = spool, uri.rstrip("/")
        self.info = RunInfo(**spool.read_json("run.json"))
        self.finish = threading.Event()
        """Set: end when all is delivered."""
        self._abandoned = threading.Event()
        self.run_id: str | None = None
        self.url: str | None = None
        # Curve -> last step delivered: a training taken up again tells some steps twice.
        self._last_step: dict[str, int] = {}

    def run(self) -> None:
        """Deliver until `finish` is set and nothing waits."""
        pause = 1.0
        while not self._abandoned.is_set():
            self.spool.news.clear()
            finishing = self.finish.is_set()
            try:
                if self.run_id is None:
                    self._open_run()
                events, position = self.spool.waiting()
                if events:
                    self._deliver(events)
                    self.spool.delivered(position)
                elif finishing:
                    return
                else:
                    self.spool.news.wait(1.0)
                pause = 1.0
            except _Away as away:
                if pause == 1.0:
                    _say(f"{self.uri} does not answer ({away}); all is kept in {self.spool.folder}")
                if finishing:
                    time.sleep(1.0)
                else:
                    self.finish.wait(pause)
                pause = min(2 * pause, 15.0)

    def abandon(self) -> None:
        """Deliver no more; what is left stays in the spool for another sender."""
        self._abandoned.set()

    def _open_run(self) -> None:
        """Find the run of this training, or make it."""
        import mlflow
        from mlflow.entities import Param

        info = self.info
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        mlflow.set_tracking_uri(self.uri)
        self._client = client = mlflow.MlflowClient(self.uri)
        with _translated():
            experiment = client.get_experiment_by_name(info.experiment)
            experiment_id = (
                experiment.experiment_id if experiment else client.create_experiment(info.experiment)
            )
            found = client.search_runs([experiment_id], f"tags.`vgg.uid` = '{info.uid}'", max_results=1)
            if found:
                run = found[0]
                for key in run.data.metrics:
                    history = client.get_metric_history(run.info.run_id, key)
                    self._last_step[key] = max(point.step for point in history)
                client.update_run(run.info.run_id, status="RUNNING")
            else:
                tags = {**info.tags, "vgg.uid": info.uid}
                run = client.create_run(experiment_id, tags=tags, run_name=info.name)
                self._log_dataset(run.info.run_id)
            there = run.data.params
            params = {key: value[:PARAM_LENGTH] for key, value in info.params.items()}
            new = [Param(key, value) for key, value in params.items() if key not in there]
            client.log_batch(run.info.run_id, params=new)
            changed = [f"{key}={value}" for key, value in params.items() if there.get(key, value) != value]
            if changed:
                client.set_tag(run.info.run_id, "resumed.params", ", ".join(changed))
        self.run_id = run.info.run_id
        self.url = f"{self.uri}/#/experiments/{experiment_id}/runs/{self.run_id}"

    def _log_dataset(self, run_id: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [DatasetInput(self._dataset(Dataset), [InputTag("mlflow.data.context", "training")])]
        self._client.log_inputs(run_id, inputs)

    def _dataset(self, kind: Any) -> Any:
        source = json.dumps({"uri": self.info.data_source})
        return kind(self.info.data_name, self.info.data_digest[:DIGEST_LENGTH], "local", source)

    def _deliver(self, events: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        assert self.run_id is not None
        points: list[Metric] = []
        last_step = dict(self._last_step)
        for event in events:
            if event["kind"] != "metrics":
                continue
            for key, value in event["values"].items():
                if key.startswith("system/") or event["step"] > last_step.get(key, -1):
                    points.append(Metric(key, value, event["time"], event["step"]))
                    last_step[key] = event["step"]
        others = [event for event in events if event["kind"] != "metrics"]
        calls: list[tuple[str, Callable[[], object]]] = [
            (f"{len(part)} points", partial(self._client.log_batch, self.run_id, metrics=part))
            for part in (points[i : i + 1000] for i in range(0, len(points), 1000))
        ]
        calls += [(f"a {event['kind']}", partial(self._deliver_one, event)) for event in others]
        for what, call in calls:
            try:
                with _translated():
                    call()
            except _Refused as refused:
                _say(f"the server refused {what}: {refused}")
                self.spool.reject({"what": what}, str(refused))
        self._last_step = last_step  # only now: a server that went away meanwhile is told all again

    def _deliver_one(self, event: dict[str, Any]) -> None:
        assert self.run_id is not None
        kind = event["kind"]
        if kind == "tags":
            for key, value in event["values"].items():
                self._client.set_tag(self.run_id, key, value)
        elif kind == "artifact":
            file = self.spool.folder / "files" / event["file"]
            with tempfile.TemporaryDirectory() as folder:
                named = Path(folder) / Path(event["path"]).name
                named.symlink_to(file.resolve())
                parent = str(Path(event["path"]).parent)
                self._client.log_artifact(self.run_id, str(named), None if parent == "." else parent)
        elif kind == "model":
            self._log_model(event)
        else:
            assert kind == "end", kind
            self._client.set_terminated(self.run_id, event["status"], event["time"])

    def _log_model(self, event: dict[str, Any]) -> None:
        import mlflow
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        architecture = Architecture(**event["architecture"])
        net = VGG(architecture)
        net.load_state_dict(load_file(self.spool.folder / "files" / event["file"]))
        side, float32 = architecture.side, np.dtype(np.float32)
        signature = ModelSignature(
            Schema([TensorSpec(float32, (-1, 3, side, side), "images_BCHW")]),
            Schema([TensorSpec(float32, (-1, architecture.classes, 1, 1), "scores_BKhw")]),
        )
        with mlflow.start_run(run_id=self.run_id):
            logged = mlflow.pytorch.log_model(
                net.eval(),
                name="best",
                signature=signature,
                input_example=np.zeros((2, 3, side, side), np.float32),
                pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
                step=event["step"],
            )
            mlflow.log_metrics(event["metrics"], event["step"], model_id=logged.model_id)


class _Away(Exception):
    """The server cannot be reached or is not well: try again."""


class _Refused(Exception):
    """The server answered that it will not take this."""


@contextmanager
def _translated() -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        code = error.get_http_status_code()
        if 400 <= code < 500 and code != 429:
            raise _Refused(error.message) from error
        raise _Away(error.message.splitlines()[0][:200]) from error
    except requests.HTTPError as error:
        code = error.response.status_code if error.response is not None else 500
        if 400 <= code < 500 and code != 429:
            raise _Refused(str(error)) from error
        raise _Away(str(error)) from error
    except requests.RequestException as error:
        raise _Away(str(error)[:200]) from error


def _gpus() -> dict[str, float]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}  # no driver, no GPU
    values = {}
    for i in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(i)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        values[f"gpu_{i}_utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
        values[f"gpu_{i}_memory_usage_megabytes"] = memory.used / 1e6
        values[f"gpu_{i}_memory_usage_percentage"] = 100 * memory.used / memory.total
        values[f"gpu_{i}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
    return values


def _say(text: str) -> None:
    print(f"tracking: {text}", file=sys.stderr, flush=True)


def _tell(future: Future[None]) -> None:
    error = future.exception()
    if error is not None:
        _say(f"a picture could not be drawn: {error!r}")


def _now() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Deliver:
    """Deliver what a training could not, because its MLflow server was away."""

    spool: tyro.conf.Positional[Path]
    """The folder that the training named."""
    uri: str
    """URI of the MLflow server."""


def main() -> None:
    """Deliver a spool to its end. Exit code 2 where the folder is none."""
    options = tyro.cli(Deliver, prog="python -m vgg.track")
    if not (options.spool / "run.json").is_file():
        _say(f"error: {options.spool} is not a spool (no run.json)")
        sys.exit(2)
    sender = Sender(Spool(options.spool), options.uri)
    sender.finish.set()
    sender.run()
    print(f"delivered: {sender.url}")


if __name__ == "__main__":
    main()
