"""Delivers a test's result to MLflow, as a run that is linked to its nets."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.storage.folder import Folder
from vgg.tracking.run_info import RunInfo
from vgg.tracking.tracker import Tracker

DELIVERY_SECONDS = 60.0


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
