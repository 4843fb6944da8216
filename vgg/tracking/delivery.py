"""Writes the events of a spool to one run of an MLflow server.

kind        fields
status      status (RUNNING, FINISHED, FAILED or KILLED), time unless RUNNING
metrics     step, time, values (curve -> value)
tags        values (tag -> value)
artifact    path in the run, file
model       about, weights_sha256, file, step, time, metrics
scores      nets (weights_sha256 -> name), time, metrics
unreadable  line: what a power failure left of an event

`file` is a name below files/ of the spool; times are Unix times in milliseconds.

Delivering an event twice, because the server went away before it answered, changes nothing: MLflow identifies
a metric by key, step, time and value, artifacts are overwritten, a model is found by its weights.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from vgg.tracking.messages import print_message
from vgg.tracking.mlflow_client import RequestRejected, translated_errors, upload_timeout
from vgg.tracking.records import link_dataset, log_model, log_scores
from vgg.tracking.run_info import RunInfo
from vgg.tracking.spool import Event, Spool

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

MAX_PARAM_CHARACTERS, MAX_TAG_CHARACTERS, MAX_BATCH_METRICS = 6000, 8000, 1000  # MLflow's limits
PRINTED_REJECTIONS = 10  # rejected.jsonl has all of them


class Delivery:
    """One run and the spool that feeds it. Every method may raise ServerUnavailable."""

    def __init__(self, client: "MlflowClient", run: "Run", info: RunInfo, spool: Spool) -> None:
        self.run = run
        self._client, self._info, self._spool = client, info, spool
        self._run_id = run.info.run_id
        self._rejections = 0
        # Curve -> last step delivered: a training that resumes from a checkpoint repeats some steps.
        self._last_step = {metric.key: metric.step for metric in run.to_proto().data.metrics}
        self._handlers: dict[str, Callable[[Event], None]] = {
            "tags": self._set_tags,
            "artifact": self._upload_artifact,
            "model": self._log_model,
            "scores": lambda event: log_scores(client, run, info, event),
            "status": self._set_status,
            "unreadable": _reject_unreadable,
        }

    def describe_run(self) -> None:
        """Set tags, parameters and data set, some of which the run may have from an earlier attempt."""
        from mlflow.entities import Param, RunTag

        existing = self.run.data.params  # MLflow does not allow a parameter to change
        params = {key: value[:MAX_PARAM_CHARACTERS] for key, value in self._info.params.items()}
        changed = [f"{key}={value}" for key, value in params.items() if existing.get(key, value) != value]
        tags = {**self._info.tags, **({"resumed.params": ", ".join(changed)} if changed else {})}
        new_params = [Param(key, value) for key, value in params.items() if key not in existing]
        new_tags = [RunTag(key, value[:MAX_TAG_CHARACTERS]) for key, value in tags.items()]
        with self._keeping_rejected({"kind": "params", "values": params, "tags": tags}):
            self._client.log_batch(self._run_id, params=new_params, tags=new_tags)
        with self._keeping_rejected({"kind": "dataset", "name": self._info.data_name}):
            link_dataset(self._client, self.run, self._info)

    def deliver(self, pending: list[tuple[Event, int]]) -> None:
        """Deliver events in order, metrics in batches, and record the position after each in the spool."""
        for are_metrics, group in groupby(pending, key=lambda pair: pair[0]["kind"] == "metrics"):
            pairs = list(group)
            if are_metrics:
                self._deliver_metrics([event for event, _ in pairs])
                self._spool.mark_delivered(pairs[-1][1])
                continue
            for event, position in pairs:
                with self._keeping_rejected(event):
                    self._handlers[event["kind"]](event)
                self._spool.mark_delivered(position)

    def _deliver_metrics(self, events: list[Event]) -> None:
        from mlflow.entities import Metric

        metrics: list[Metric] = []
        last_step = dict(self._last_step)
        for event in events:
            for key, value in event["values"].items():
                if key.startswith("system/") or event["step"] > last_step.get(key, -1):
                    metrics.append(Metric(key, value, event["time"], event["step"]))
                    last_step[key] = event["step"]
        for first in range(0, len(metrics), MAX_BATCH_METRICS):
            self._log_metrics(metrics[first : first + MAX_BATCH_METRICS])
        self._last_step = last_step  # only now: after ServerUnavailable all are delivered again

    def _log_metrics(self, metrics: "list[Metric]") -> None:
        """Log a batch; halve one that is rejected until only the metrics at fault are left out."""
        if len(metrics) == 1:
            (metric,) = metrics
            event = {"kind": "metrics", "step": metric.step, "time": metric.timestamp}
            with self._keeping_rejected({**event, "values": {metric.key: metric.value}}):
                self._client.log_batch(self._run_id, metrics=metrics)
            return
        try:
            with translated_errors():
                self._client.log_batch(self._run_id, metrics=metrics)
        except RequestRejected:
            middle = len(metrics) // 2
            self._log_metrics(metrics[:middle])
            self._log_metrics(metrics[middle:])

    def _set_tags(self, event: Event) -> None:
        for key, value in event["values"].items():
            self._client.set_tag(self._run_id, key, value[:MAX_TAG_CHARACTERS])

    def _upload_artifact(self, event: Event) -> None:
        path = Path(event["path"])
        with tempfile.TemporaryDirectory() as folder:
            named = Path(folder) / path.name  # MLflow takes the artifact's name from the file
            named.symlink_to(self._file(event).resolve())
            parent = None if path.parent == Path() else str(path.parent)
            with upload_timeout():
                self._client.log_artifact(self._run_id, str(named), parent)

    def _log_model(self, event: Event) -> None:
        log_model(self._client, self.run, self._info, event, self._file(event))

    def _set_status(self, event: Event) -> None:
        if event["status"] == "RUNNING":
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            self._client.set_terminated(self._run_id, event["status"], event["time"])

    def _file(self, event: Event) -> Path:
        return self._spool.folder / "files" / event["file"]

    @contextmanager
    def _keeping_rejected(self, event: Event) -> Iterator[None]:
        """Write the event to rejected.jsonl if the server rejects it, and continue."""
        try:
            with translated_errors():
                yield
        except RequestRejected as rejected:
            self._spool.reject(event, str(rejected))
            self._rejections += 1
            if self._rejections <= PRINTED_REJECTIONS:
                file = self._spool.folder / "rejected.jsonl"
                print_message(f"rejected by the server: {event['kind']} ({rejected}); kept in {file}")


def _reject_unreadable(_: Event) -> None:
    raise RequestRejected("an incomplete line, as a power failure leaves")
