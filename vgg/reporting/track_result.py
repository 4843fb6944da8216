"""Delivers a test's result to MLflow, as a run that is linked to its nets."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from pipelines.storage.folder import Folder
from vgg.reporting.facts import TaggedFacts
from vgg.tracking.run_info import RunInfo, unix_time_ms
from vgg.tracking.tracker import Tracker

DELIVERY_SECONDS = 60.0


class DataOfTest(Protocol):
    """Of whatever provenance."""

    @property
    def data(self) -> str:
        """SHA-256 of the packed data set's manifest."""

    @property
    def source(self) -> str:
        """Name of the data set."""


def run_of_test(
    result: Mapping[str, Any],
    name: str,
    data: DataOfTest,
    facts: TaggedFacts,
    shared: Mapping[str, str],
    measured: Mapping[str, str],
    experiment: str,
) -> RunInfo:
    """`shared`: tags and parameters; `measured`: parameters. The same result is the same run, again."""
    kind, identity = result["kind"], result["identity"]
    scales = "+".join(map(str, result["scales"]))
    about = {"kind": kind, "scales": scales, "identity": identity}
    versions = {f"software.{package}": version for package, version in result["software"].items()}
    return RunInfo(
        uid=hashlib.sha256(json.dumps([identity, measured, kind]).encode()).hexdigest()[:32],
        experiment=experiment,
        name=name,
        tags={**shared, **about, **facts.to_tags()},
        params={**shared, **measured, **versions, **facts.to_params()},
        data_name=data.source,
        data_digest=data.data,
        data_source=data.source,
        data_context="evaluation",
        started=unix_time_ms(),
    )


def track_result(
    folder: Folder,
    info: RunInfo,
    uri: str,
    result: Mapping[str, Any],
    nets: Mapping[str, str],
    metrics: dict[str, float],
    pictures: Mapping[str, bytes],
) -> str | None:
    """The address of the run, or None if the server does not answer: then what is left is in a spool.

    `folder`: of the result; `nets`: SHA-256 of the weights -> name; `pictures`: name -> PNG file.
    """
    spool = (folder.local or Path(tempfile.gettempdir())) / f"spool-{info.uid[:8]}"
    tracker = Tracker(spool, uri, info, watch_system=False)
    tracker.scores(dict(nets), metrics)
    tracker.text("result.json", json.dumps(result))
    for name, png in pictures.items():
        tracker.file(f"pictures/{name}", png)
    if tracker.close("FINISHED", DELIVERY_SECONDS):
        return tracker.sender.url
    print(tracker.undelivered, flush=True)
    return None
