"""Delivers a spool to an MLflow server, for as long as it takes."""

import logging
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from safetensors import SafetensorError

from vgg.tracking.records import RunInfo, link_data, log_model, log_scores, patient_uploads
from vgg.tracking.spool import Spool

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run


# Read by MLflow's client when it is first used: a server that is down must be noticed at once, since the
# sender itself retries.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")


os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 15.0


PARAM_LENGTH, TAG_LENGTH, BATCH_POINTS = 6000, 8000, 1000  # MLflow's limits


TOLD_REFUSALS = 10  # on standard error; rejected.jsonl has them all


class Sender:
    """Delivers a spool to an MLflow server, in order, for as long as it takes.

    What is told twice, because the server went away before it answered, is there once: a point is
    MLflow's by key, step, time and value; artifacts are overwritten; a model is found again by its step.
    """

    def __init__(self, spool: Spool, uri: str) -> None:
        self.spool, self.uri = spool, uri.rstrip("/")
        self.info = RunInfo(**spool.read_json("run.json"))
        self.finish = threading.Event()
        """Set: end when all is delivered."""
        self.done = False
        """Whether it ended so."""
        self.run_id: str | None = None
        self.url: str | None = None
        self._abandoned = threading.Event()
        self._refusals = 0
        # Curve -> last step delivered: a training taken up again tells some steps twice.
        self._last_step: dict[str, int] = {}

    def run(self, patience_seconds: float = math.inf) -> None:
        """Deliver until `finish` is set and nothing waits, or the server is away for too long."""
        pause, answered = FIRST_PAUSE_SECONDS, time.monotonic()
        while not self._abandoned.is_set():
            self.spool.news.clear()
            finishing = self.finish.is_set()
            try:
                if self.run_id is None:
                    self._open_run()
                waiting = self.spool.waiting()
                if waiting:
                    self._deliver(waiting)
                elif finishing:
                    self.done = True
                    break
                else:
                    self.spool.news.wait(1.0)
                pause, answered = FIRST_PAUSE_SECONDS, time.monotonic()
            except _Away as away:
                if pause == FIRST_PAUSE_SECONDS and not self._abandoned.is_set():
                    say(f"{self.uri} takes nothing ({away}); all is kept in {self.spool.folder}")
                if time.monotonic() - answered > patience_seconds:
                    break
                if finishing:
                    self._abandoned.wait(FIRST_PAUSE_SECONDS)
                else:
                    self.finish.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        self.spool.release()

    def abandon(self) -> None:
        """Deliver no more; what is left stays in the spool for another sender."""
        self._abandoned.set()

    def _open_run(self) -> None:
        """Find the run of this training, or make it."""
        import mlflow

        if not self.spool.claim():
            raise _Away("another process delivers this spool")
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        mlflow.set_tracking_uri(self.uri)
        self._client = mlflow.MlflowClient(self.uri)
        try:
            with _translated():
                run = self._find_run()
        except _Refused as refused:  # nothing can be told without a run: this is to be mended by somebody
            raise _Away(f"it refuses the run: {refused}") from refused
        self._describe(run)
        self._last_step = {point.key: point.step for point in run.to_proto().data.metrics}
        self._run, self.run_id = run, run.info.run_id
        self.url = f"{self.uri}/#/experiments/{run.info.experiment_id}/runs/{self.run_id}"

    def _find_run(self) -> "Run":
        client, info = self._client, self.info
        experiment = client.get_experiment_by_name(info.experiment)
        where = experiment.experiment_id if experiment else client.create_experiment(info.experiment)
        found = client.search_runs([where], f"tags.`vgg.uid` = '{info.uid}'", max_results=1)
        if found:
            return found[0]
        self.spool.delivered(0)  # another server, or one that forgot: it is told all
        tags = {"vgg.uid": info.uid}
        return client.create_run(where, start_time=info.started, tags=tags, run_name=info.name)

    def _describe(self, run: "Run") -> None:
        """Tags, parameters and data set of the run, which may have some of them from an earlier attempt."""
        from mlflow.entities import Param, RunTag

        info, run_id, there = self.info, run.info.run_id, run.data.params
        params = {key: value[:PARAM_LENGTH] for key, value in info.params.items()}
        changed = [f"{key}={value}" for key, value in params.items() if there.get(key, value) != value]
        tags = {**info.tags, **({"resumed.params": ", ".join(changed)} if changed else {})}
        new_params = [Param(key, value) for key, value in params.items() if key not in there]
        new_tags = [RunTag(key, value[:TAG_LENGTH]) for key, value in tags.items()]
        with self._rejecting({"kind": "params", "values": params, "tags": tags}):
            self._client.log_batch(run_id, params=new_params, tags=new_tags)
        with self._rejecting({"kind": "dataset", "name": info.data_name}):
            link_data(self._client, run, info)

    def _deliver(self, waiting: list[tuple[dict[str, Any], int]]) -> None:
        for are_points, group in groupby(waiting, key=lambda pair: pair[0]["kind"] == "metrics"):
            pairs = list(group)
            if are_points:
                self._deliver_points([event for event, _ in pairs])
                self.spool.delivered(pairs[-1][1])
                continue
            for event, position in pairs:
                with self._rejecting(event):
                    self._deliver_one(event)
                self.spool.delivered(position)

    def _deliver_points(self, events: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        points: list[Metric] = []
        last_step = dict(self._last_step)
        for event in events:
            for key, value in event["values"].items():
                if key.startswith("system/") or event["step"] > last_step.get(key, -1):
                    points.append(Metric(key, value, event["time"], event["step"]))
                    last_step[key] = event["step"]
        for first in range(0, len(points), BATCH_POINTS):
            self._log_points(points[first : first + BATCH_POINTS])
        self._last_step = last_step  # only now: a server that went away meanwhile is told all again

    def _log_points(self, points: "list[Metric]") -> None:
        """Log a batch; of one that is refused, all but the points that are why."""
        assert self.run_id is not None
        if len(points) == 1:
            (point,) = points
            event = {"kind": "metrics", "step": point.step, "time": point.timestamp}
            with self._rejecting({**event, "values": {point.key: point.value}}):
                self._client.log_batch(self.run_id, metrics=points)
            return
        try:
            with _translated():
                self._client.log_batch(self.run_id, metrics=points)
        except _Refused:
            middle = len(points) // 2
            self._log_points(points[:middle])
            self._log_points(points[middle:])

    def _deliver_one(self, event: dict[str, Any]) -> None:
        assert self.run_id is not None
        kind = event["kind"]
        if kind == "tags":
            for key, value in event["values"].items():
                self._client.set_tag(self.run_id, key, value[:TAG_LENGTH])
        elif kind == "artifact":
            file = self.spool.folder / "files" / event["file"]
            with tempfile.TemporaryDirectory() as folder:
                named = Path(folder) / Path(event["path"]).name
                named.symlink_to(file.resolve())
                parent = str(Path(event["path"]).parent)
                with patient_uploads():
                    self._client.log_artifact(self.run_id, str(named), None if parent == "." else parent)
        elif kind == "model":
            log_model(self._client, self._run, self.info, event, self.spool.folder / "files" / event["file"])
        elif kind == "scores":
            log_scores(self._client, self._run, self.info, event)
        elif kind == "unreadable":
            raise _Refused("half a line, as a power cut leaves")
        elif event["status"] == "RUNNING":
            self._client.update_run(self.run_id, status="RUNNING")
        else:
            self._client.set_terminated(self.run_id, event["status"], event["time"])

    @contextmanager
    def _rejecting(self, event: dict[str, Any]) -> Iterator[None]:
        """Keep the event where the server will not take it, and go on."""
        try:
            with _translated():
                yield
        except _Refused as refused:
            self.spool.reject(event, str(refused))
            self._refusals += 1
            if self._refusals <= TOLD_REFUSALS:
                say(f"not taken: {event['kind']} ({refused}); kept in {self.spool.folder}/rejected.jsonl")


class _Away(Exception):
    """The server cannot be reached, is not well or does not know us: try again."""


class _Refused(Exception):
    """The server answered that it will not take this."""


@contextmanager
def _translated() -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        reason = str(_root(error)).splitlines()[0][:300]
        # A 404 that is not MLflow's own is a proxy's, with no server behind it.
        if error.error_code != "ENDPOINT_NOT_FOUND" and _for_good(error.get_http_status_code()):
            raise _Refused(reason) from error
        raise _Away(reason) from error
    except requests.HTTPError as error:
        if error.response is not None and _for_good(error.response.status_code):
            raise _Refused(str(error)) from error
        raise _Away(str(error)) from error
    except requests.RequestException as error:
        raise _Away(str(_root(error))) from error
    except (FileNotFoundError, SafetensorError) as error:  # the spool's own file is lost or broken
        raise _Refused(str(error)) from error


def _root(error: BaseException) -> BaseException:
    """What it began with: "Connection refused" rather than four layers about it."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _for_good(status: int) -> bool:
    """Whether an HTTP status is about what was said, not about who says it or when."""
    return 400 <= status < 500 and status not in (401, 403, 407, 408, 429)


def say(text: str) -> None:
    """A line on standard error."""
    print(f"tracking: {text}", file=sys.stderr, flush=True)


def now() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
