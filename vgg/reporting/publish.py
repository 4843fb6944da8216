"""A test's outcome: posteriors, result.json, and a run in MLflow that is linked to its nets and its data."""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from pipelines.storage.folder import Folder
from vgg.metrics.accuracy import Accuracy, accuracy
from vgg.metrics.confusion import confusion_matrix
from vgg.pictures.confusion import confusion_figure
from vgg.reporting.paper_results import ResultKey, published
from vgg.testing import posteriors
from vgg.testing.posteriors import Posteriors
from vgg.testing.provenance import Member
from vgg.tracking.records import RunInfo
from vgg.tracking.sender import now
from vgg.tracking.tracker import Tracker

Kind = Literal["eval", "ensemble"]


DELIVERY_SECONDS = 60.0


ERRORS = ("top1_error", "top5_error")


@dataclass(frozen=True)
class Published:
    """Where a test's outcome lies, and its result.json."""

    folder: Folder
    result: dict[str, Any]


def publish(
    folder: Folder, of: Posteriors, tracking_uri: str | None, experiment: str, *, kind: Kind
) -> Published:
    """Leave posteriors.arrow and result.json in the folder and track the test.

    Told twice, it is one run: the run belongs to the posteriors' digest and the test's name.
    """
    scored = accuracy(of.posteriors_NK, of.labels_N)
    digest = posteriors.write(folder, "posteriors.arrow", of)
    members = [member for member, _ in of.about.members]
    result = {
        "format": 1,
        "kind": kind,
        "net": " + ".join(of.about.nets),
        **_summary(members),
        "members": [{**member.__dict__, "weight": weight} for member, weight in of.about.members],
        "data": {"digest": of.about.data, "source": of.about.source, "split": of.about.split},
        **scored.to_json(),
        "posteriors_sha256": digest,
    }
    url = None
    if tracking_uri is not None:
        url = _track(folder, of, scored, result, tracking_uri, experiment)
    result["tracked_at"] = url
    folder.write_json("result.json", result)
    return Published(folder, result)


def _summary(members: Sequence[Member]) -> dict[str, Any]:
    """What all members have in common, as one looks for it: recipe, configuration, protocol, scales."""
    protocols = {member.protocol for member in members}
    return {
        "recipe": " + ".join(sorted({member.recipe for member in members})),
        "configuration": " + ".join(_each_net(members)),
        "protocol": "both" if protocols == {"dense", "multi-crop"} else " + ".join(sorted(protocols)),
        "scales": sorted({member.scale for member in members}),
    }


def _each_net(members: Sequence[Member]) -> list[str]:
    nets = {member.weights_sha256: member.configuration for member in members}
    return [
        name if count == 1 else f"{count} × {name}" for name, count in sorted(Counter(nets.values()).items())
    ]


def _track(
    folder: Folder,
    of: Posteriors,
    scored: Accuracy,
    result: dict[str, Any],
    uri: str,
    experiment: str,
) -> str | None:
    name = f"{result['net']} {result['protocol']} {'+'.join(map(str, result['scales']))}"
    uid = hashlib.sha256(f"{result['posteriors_sha256']} {name} {result['kind']}".encode()).hexdigest()[:32]
    nets = {member.weights_sha256: member.net for member, _ in of.about.members}
    about = {key: str(result[key]) for key in ("net", "recipe", "configuration", "protocol", "scales")}
    params = {
        **about,
        "split": of.about.split,
        "average": " ".join(sorted({member.average for member, _ in of.about.members})),
        "precision": " ".join(sorted({member.precision for member, _ in of.about.members})),
        "posteriors": f"{folder.uri}/posteriors.arrow",
        "posteriors_sha256": result["posteriors_sha256"],
    }
    scales = "+".join(map(str, result["scales"]))
    scales_of_nets = {m.weights_sha256: f"{m.configuration}@{m.trained_at}" for m, _ in of.about.members}
    tested = ResultKey(tuple(sorted(scales_of_nets.values())), result["protocol"], tuple(result["scales"]))
    info = RunInfo(
        uid=uid,
        experiment=experiment,
        name=name,
        tags={
            **about,
            "kind": result["kind"],
            "scales": scales,
            "tested": " ".join(tested.nets),
            "split": of.about.split,
            "classes": str(len(of.about.classes)),
        },
        params=params,
        data_name=of.about.source,
        data_digest=of.about.data,
        data_source=of.about.source,
        data_context="evaluation",
        started=now(),
    )
    spool = (folder.local or Path(tempfile.gettempdir())) / f"spool-{uid[:8]}"
    tracker = Tracker(spool, uri, info, watch_system=False)
    metrics = {
        "top1_error": scored.top1_error,
        "top5_error": scored.top5_error,
        "top1_error_low": scored.top1_interval[0],
        "top1_error_high": scored.top1_interval[1],
        "calibration_error": scored.calibration_error,
        "images": float(scored.seen),
    }
    theirs = published(tested, len(of.about.classes), of.about.source)
    for error, ours, stated in zip(ERRORS, (scored.top1_error, scored.top5_error), theirs, strict=True):
        if stated is not None:
            metrics[f"{error}_over_published"] = ours - stated
    tracker.scores(nets, metrics)
    tracker.text(
        "result.json", json.dumps({key: value for key, value in result.items() if key != "tracked_at"})
    )
    predicted_N = torch.from_numpy(of.posteriors_NK.argmax(1))
    confusion_KK = confusion_matrix(torch.from_numpy(of.labels_N), predicted_N, len(of.about.classes)).numpy()
    tracker.figure("pictures/confusion.png", lambda: confusion_figure(confusion_KK, of.about.class_names))
    if tracker.close("FINISHED", DELIVERY_SECONDS):
        return tracker.sender.url
    print(
        f"the tracking server is away; deliver the rest later with: python -m vgg.track {spool} --uri {uri}",
        flush=True,
    )
    return None
