"""A result as a run of MLflow: its name, tags, parameters and metrics."""

import hashlib
from typing import Any

from vgg.metrics.accuracy import Accuracy
from vgg.reporting.facts import Facts
from vgg.reporting.paper_conditions import reference
from vgg.testing.posteriors import Posteriors
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
        "identity": result["identity"],
    }
    shared |= _settings(provenance)
    return RunInfo(
        uid=uid,
        experiment=experiment,
        name=f"{result['configuration']} {result['protocol']} {scales}",  # short: lists cut longer ones off
        tags={
            **shared,
            "kind": result["kind"],
            "scales": scales,
            "Q": scales.replace("+", ", "),
            "data": provenance.source,
            "tested": " ".join(_nets(provenance)),
            "classes": str(len(provenance.classes)),
            **facts.to_tags(),
        },
        params={
            **shared,
            **{f"software.{name}": each for name, each in result["software"].items()},
            "facts_sha256": facts.digest,
            "top1_wrong": str(result["top1_wrong"]),
            "top5_wrong": str(result["top5_wrong"]),
            "posteriors": posteriors_uri,
            "posteriors_sha256": result["posteriors_sha256"],
        },
        data_name=provenance.source,
        data_digest=provenance.data,
        data_source=provenance.source,
        data_context="evaluation",
        started=unix_time_ms(),
    )


def _settings(provenance: Provenance) -> dict[str, str]:
    """How the members were scored."""
    members = [member for member, _ in provenance.members]
    grids = {str(member.grid) for member in members if member.protocol == "multi-crop"}
    return {
        "average": " ".join(sorted({member.average for member in members})),
        "precision": " ".join(sorted({member.precision for member in members})),
        "grid": " ".join(sorted(grids)),
    }


def metrics(posteriors: Posteriors, accuracy: Accuracy) -> dict[str, float]:
    """Errors, top-1 interval, loss, calibration, and differences from comparable published errors, if any.

    Rounded, as MLflow shows all digits that it is given; the counts are parameters of the run.
    """
    values = {
        "top1_error": round_error(accuracy.top1_error),
        "top5_error": round_error(accuracy.top5_error),
        "top1_error_low": round_error(accuracy.top1_interval[0]),
        "top1_error_high": round_error(accuracy.top1_interval[1]),
        "loss": round(accuracy.loss, 4),
        "calibration_error": round(accuracy.calibration_error, 4),
        "images": float(accuracy.seen),
    }
    published = reference(Facts.of(posteriors))
    for name, error in zip(("top1_error", "top5_error"), published, strict=True):
        if error is not None:
            values[f"{name}_over_published"] = round_error(values[name] - error)
    return values


def round_error(error: float) -> float:
    """To the thousandth of a percent: exact for the 50,000 images of the paper."""
    return round(error, ERROR_DIGITS)


def _nets(provenance: Provenance) -> list[str]:
    """Each net once, as CONFIGURATION@TRAINING SCALE."""
    nets = {m.weights_sha256: f"{m.configuration}@{m.trained_at}" for m, _ in provenance.members}
    return sorted(nets.values())
