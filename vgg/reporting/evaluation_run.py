"""A result as a run of MLflow: its name, tags, parameters and metrics."""

import hashlib
from typing import Any

from vgg.metrics.accuracy import Accuracy
from vgg.metrics.top5 import has_top5
from vgg.reporting.facts import Facts
from vgg.reporting.paper_conditions import reference
from vgg.testing.posteriors import Posteriors
from vgg.testing.protocols import GRID
from vgg.testing.provenance import Provenance
from vgg.tracking.run_info import RunInfo, unix_time_ms

ERROR_DIGITS = 3


def run_info(
    result: dict[str, Any], posteriors: Posteriors, posteriors_uri: str, *, experiment: str
) -> RunInfo:
    """Description of the run. Its id is derived from posteriors and name: the same result is the same run."""
    provenance, facts = posteriors.provenance, Facts.of(posteriors)
    scales = "+".join(map(str, result["scales"]))
    tested = f"{result['net']} {result['protocol']} {scales}"
    uid = hashlib.sha256(
        f"{result['posteriors_sha256']} {tested} {result['kind']} {result['identity']}".encode()
    ).hexdigest()[:32]
    shared = {key: str(result[key]) for key in ("net", "recipe", "configuration", "protocol", "scales")}
    shared |= {
        "split": provenance.split,
        "data_digest": provenance.data,
        "images": str(result["images"]),
    }
    settings = _settings(provenance)
    unusual = {name: value for name, value in settings.items() if (name, value) != ("grid", str(GRID))}
    return RunInfo(
        uid=uid,
        experiment=experiment,
        name=f"{result['configuration']} {result['protocol']} {scales}",  # short: lists cut longer ones off
        tags={
            **shared,
            **settings,
            "kind": result["kind"],
            "identity": result["identity"],
            "posteriors": posteriors_uri,
            "posteriors_sha256": result["posteriors_sha256"],
            "scales": scales,
            "Q": scales.replace("+", ", "),
            "data": provenance.source,
            "tested": " ".join(_nets(provenance)),
            "classes": str(len(provenance.classes)),
            **facts.to_tags(),
        },
        params={
            **shared,
            **unusual,  # a parameter that some runs lack would be what they differ in
            **{f"software.{name}": each for name, each in result["software"].items()},
            "top1_wrong": str(result["top1_wrong"]),
            "top5_wrong": str(result["top5_wrong"]),
            **facts.to_params(),
        },
        data_name=provenance.source,
        data_digest=provenance.data,
        data_source=provenance.source,
        data_context="evaluation",
        started=unix_time_ms(),
    )


def _settings(provenance: Provenance) -> dict[str, str]:
    """How the members were scored; the grid of those that have one."""
    members = [member for member, _ in provenance.members]
    grids = {str(member.grid) for member in members if member.protocol == "multi-crop"}
    settings = {
        "average": {member.average for member in members},
        "precision": {member.precision for member in members},
        "grid": grids,
    }
    return {name: " ".join(sorted(values)) for name, values in settings.items() if values}


def metrics(posteriors: Posteriors, accuracy: Accuracy) -> dict[str, float]:
    """Errors, top-1 interval, share of the largest class, loss, calibration, and differences from comparable
    published errors, if any; of five classes or fewer no top-5 error.

    Rounded, as MLflow shows all digits that it is given; the counts are parameters of the run.
    """
    values = {
        "top1_error": round_error(accuracy.top1_error),
        "top1_error_low": round_error(accuracy.top1_interval[0]),
        "top1_error_high": round_error(accuracy.top1_interval[1]),
        "majority_share": round(accuracy.majority_share, 4),
        "loss": round(accuracy.loss, 4),
        "calibration_error": round(accuracy.calibration_error, 4),
        "images": float(accuracy.seen),
    }
    if has_top5(len(posteriors.provenance.classes)):
        values["top5_error"] = round_error(accuracy.top5_error)
    published = reference(Facts.of(posteriors))
    for name, error in zip(("top1_error", "top5_error"), published, strict=True):
        if error is not None and name in values:
            values[f"{name}_over_published"] = round_error(values[name] - error)
    return values


def round_error(error: float) -> float:
    """To the thousandth of a percent: exact for the 50,000 images of the paper."""
    return round(error, ERROR_DIGITS)


def _nets(provenance: Provenance) -> list[str]:
    """Each net once, as CONFIGURATION@TRAINING SCALE."""
    nets = {m.weights_sha256: f"{m.configuration}@{m.trained_at}" for m, _ in provenance.members}
    return sorted(nets.values())
