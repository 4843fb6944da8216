"""Writes the events of a spool to one run of an MLflow server.

kind        fields
status      status (RUNNING, FINISHED, FAILED or KILLED), time
metrics     step, time, values (curve -> value)
tags        values (tag -> value)
artifact    path in the run; file, or text itself
model       about, weights_sha256, file, step, time, metrics
scores      nets (weights_sha256 -> name), time, metrics
unreadable  line: what a power failure left of an event

`file` is a name below files/ of the spool; times are Unix times in milliseconds.

Delivering an event twice, because the server went away before it answered, changes nothing: MLflow identifies
a metric by key, step, time and value, artifacts are overwritten, a model is found by its weights and run.

An event that cannot be delivered is set aside with the reason, and those behind it are delivered. A spool may
be somebody else's: it names no file but its own, and no place outside its run.
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from vgg.tracking.messages import print_message
from vgg.tracking.mlflow_client import (
    RequestRejected,
    Undeliverable,
    own_work,
    translated_errors,
    upload_timeout,
)
from vgg.tracking.records import link_dataset, log_model, log_scores
from vgg.tracking.run_info import RunInfo
from vgg.tracking.spool import Event, Spool

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

Entry = TypeVar("Entry")

# MLflow's limits, and those of earlier servers.
MAX_PARAM_CHARACTERS, EARLIER_PARAM_CHARACTERS = 6000, 500
MAX_TAG_CHARACTERS, EARLIER_TAG_CHARACTERS = 8000, 5000
MAX_BATCH_METRICS, MAX_BATCH_PARAMS = 1000, 100
PRINTED_REJECTIONS = 10  # rejected.jsonl has all of them
MEMORY_FOLDER = "/dev/shm"
_NAME = re.compile(r"[^\x00-\x1f\x7f\\:#?%]+")


class Delivery:
    """One run and the spool that feeds it. Every method may raise ServerUnavailable."""

    def __init__(self, client: "MlflowClient", run: "Run", info: RunInfo, spool: Spool) -> None:
        self.run = run
        self.rejections = 0
        self._client, self._info, self._spool = client, info, spool
        self._run_id = run.info.run_id
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
        existing = self.run.data.params  # MLflow does not allow a parameter to change
        params = {key: value[:MAX_PARAM_CHARACTERS] for key, value in self._info.params.items()}
        changed = [f"{key}={value}" for key, value in params.items() if _differs(existing.get(key), value)]
        tags = {**self._info.tags, **({"resumed.params": ", ".join(changed)} if changed else {})}
        new = [(key, value) for key, value in params.items() if key not in existing]
        self._in_batches(new, MAX_BATCH_PARAMS, self._log_params, "params")
        self._in_batches(list(tags.items()), MAX_BATCH_PARAMS, self._log_tags, "tags")
        with self._setting_aside({"kind": "dataset", "name": self._info.data_name}):
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
                with self._setting_aside(event):
                    self._handlers.get(event["kind"], _reject_unknown)(event)
                self._spool.mark_delivered(position)

    def _deliver_metrics(self, events: list[Event]) -> None:
        metrics: list[Metric] = []
        last_step = dict(self._last_step)
        for event in events:
            with self._setting_aside(event):
                for metric in _metrics(event):
                    if metric.key.startswith("system/") or metric.step > last_step.get(metric.key, -1):
                        metrics.append(metric)
                        last_step[metric.key] = metric.step
        self._in_batches(metrics, MAX_BATCH_METRICS, self._log_metrics, "metrics")
        self._last_step = last_step  # only now: after ServerUnavailable all are delivered again

    def _in_batches(
        self, entries: Sequence[Entry], size: int, log: Callable[[Sequence[Entry]], None], kind: str
    ) -> None:
        """Log all; halve a batch that is rejected until only the entries at fault are left out."""
        for first in range(0, len(entries), size):
            batch = entries[first : first + size]
            if len(batch) == 1:
                with self._setting_aside(_as_event(kind, batch[0])):
                    log(batch)
                continue
            try:
                with translated_errors():
                    log(batch)
            except Undeliverable:
                self._in_batches(batch, (len(batch) + 1) // 2, log, kind)

    def _log_metrics(self, metrics: "Sequence[Metric]") -> None:
        self._client.log_batch(self._run_id, metrics=metrics)

    def _log_params(self, params: Sequence[tuple[str, str]]) -> None:
        from mlflow.entities import Param

        def log(limit: int) -> None:
            self._client.log_batch(self._run_id, params=[Param(key, value[:limit]) for key, value in params])

        _log_shortened(log, MAX_PARAM_CHARACTERS, EARLIER_PARAM_CHARACTERS)

    def _log_tags(self, tags: Sequence[tuple[str, str]]) -> None:
        from mlflow.entities import RunTag

        def log(limit: int) -> None:
            self._client.log_batch(self._run_id, tags=[RunTag(key, value[:limit]) for key, value in tags])

        _log_shortened(log, MAX_TAG_CHARACTERS, EARLIER_TAG_CHARACTERS)

    def _set_tags(self, event: Event) -> None:
        self._in_batches(list(event["values"].items()), 1, self._log_tags, "tags")

    def _upload_artifact(self, event: Event) -> None:
        path = _path_in_run(event["path"])
        parent = None if path.parent == PurePosixPath() else str(path.parent)
        # MLflow takes an artifact's name from its file.
        memory = MEMORY_FOLDER if os.access(MEMORY_FOLDER, os.W_OK) else None  # the disk may be full
        with tempfile.TemporaryDirectory(dir=memory) as folder, ExitStack() as opened, upload_timeout():
            named = Path(folder) / path.name
            if "text" in event:
                named.write_text(event["text"], encoding="utf-8")
            else:
                named.symlink_to(opened.enter_context(self._spool.opened(event["file"])))
            self._client.log_artifact(self._run_id, str(named), parent)

    def _log_model(self, event: Event) -> None:
        with self._spool.opened(event["file"]) as file:
            log_model(self._client, self.run, self._info, event, file)

    def _set_status(self, event: Event) -> None:
        """A test that is repeated is the run that it was, which ended when it was tested first."""
        if self._info.data_context == "evaluation" and self.run.info.status == "FINISHED":
            return
        if event["status"] == "RUNNING":
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            self._client.set_terminated(self._run_id, event["status"], event["time"])

    @contextmanager
    def _setting_aside(self, event: Event) -> Iterator[None]:
        """Write the event to rejected.jsonl if it cannot be delivered, and continue."""
        try:
            with translated_errors():
                yield
        except Undeliverable as error:
            self.rejections += 1
            if self._spool.reject(event, str(error)) and self.rejections <= PRINTED_REJECTIONS:
                by = "rejected by the server" if isinstance(error, RequestRejected) else "cannot be delivered"
                what = " ".join(str(event[key]) for key in ("kind", "path", "file") if key in event)
                file = self._spool.folder / "rejected.jsonl"
                print_message(f"{by}: {what} ({error}); kept in {file}, the rest is delivered")


def _metrics(event: Event) -> "list[Metric]":
    from mlflow.entities import Metric

    with own_work():
        step, time = int(event["step"]), int(event["time"])
        return [Metric(str(key), float(value), time, step) for key, value in event["values"].items()]


def _path_in_run(path: str) -> PurePosixPath:
    """The path of an artifact. Undeliverable if it leads out of its run, however it is written."""
    parts = path.split("/")
    if not all(_NAME.fullmatch(part) and part not in (".", "..") for part in parts):
        raise Undeliverable(f"{path!r} is not a path within a run")
    return PurePosixPath(path)


def _differs(existing: str | None, value: str) -> bool:
    """Whether a parameter has changed; an earlier server may have kept the start of it alone."""
    return existing is not None and existing not in (value, value[:EARLIER_PARAM_CHARACTERS])


def _log_shortened(log: Callable[[int], None], limit: int, earlier_limit: int) -> None:
    """Log values cut at MLflow's limit, and if the server rejects them, at that of earlier servers."""
    try:
        with translated_errors():
            log(limit)
    except RequestRejected:
        log(earlier_limit)


def _as_event(kind: str, entry: Any) -> Event:
    """What rejected.jsonl keeps of a metric, a parameter or a tag."""
    if isinstance(entry, tuple):
        return {"kind": kind, "values": {entry[0]: entry[1]}}
    return {"kind": kind, "step": entry.step, "time": entry.timestamp, "values": {entry.key: entry.value}}


def _reject_unknown(event: Event) -> None:
    raise Undeliverable(f"this version knows no {event['kind']!r}: deliver it with the version that wrote it")


def _reject_unreadable(_: Event) -> None:
    raise Undeliverable("an incomplete line, as a power failure leaves, or no event")
