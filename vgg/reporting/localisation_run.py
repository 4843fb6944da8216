"""Publish a localisation test: result.json and a picture in its folder, and a run in MLflow."""

from typing import Any, Literal

from matplotlib.figure import Figure

from pipelines.storage.folder import Folder
from vgg.localisation.errors import BoxErrors
from vgg.localisation.provenance import BoxProvenance
from vgg.pictures.png import as_png
from vgg.reporting.localisation_facts import LocalisationFacts
from vgg.reporting.track_result import run_of_test, track_result
from vgg.tracking.run_info import RunInfo
from vgg.tracking.software import software

KIND = "localise"
PICTURE = "boxes.png"

Step = Literal["evaluate", "fuse"]


def publish_boxes(
    folder: Folder,
    provenance: BoxProvenance,
    errors: BoxErrors,
    facts: LocalisationFacts,
    figure: Figure,
    tracking_uri: str | None,
    experiment: str,
) -> dict[str, Any]:
    """Write the result and track it if there is a server; the content of result.json.

    Published again, the same result is the same run.
    """
    result = {
        "format": 1,
        "kind": KIND,
        "net": " + ".join(sorted(net.net for net in provenance.nets)),
        "recipe": " + ".join(sorted({net.recipe for net in provenance.nets})),
        "configuration": " + ".join(sorted({net.configuration for net in provenance.nets})),
        "protocol": provenance.protocol,
        "scales": sorted({scale for net in provenance.nets for scale in net.scales}),
        "threshold": facts.threshold,
        "members": [net.__dict__ for net in provenance.nets],
        "data": {"digest": provenance.data, "source": provenance.source, "split": provenance.split},
        **errors.to_json(),
        "identity": provenance.result_identity(facts.threshold, errors.seen),
        "software": software(),
    }
    png = as_png(figure)
    folder.write(PICTURE, png)
    result["tracked_at"] = None
    if tracking_uri is not None:
        result["tracked_at"] = _track(folder, provenance, result, facts, png, tracking_uri, experiment)
    folder.write_json("result.json", result)
    return result


def summary(result: dict[str, Any]) -> str:
    """Net, protocol, scales and errors for people."""
    scales, centre = ", ".join(map(str, result["scales"])), result["protocol"] == "centre"
    lines = [
        f"{result['net']}, {result['protocol']}, Q = {scales}, {result['images']:,} images with boxes, "
        f"{'true class given' if centre else 'classes by the classifier'}:"
    ]
    names = {
        "top1": "localisation error" if centre else "top-1 localisation error",
        "top5": "top-5 localisation error",
        "mean_box": "the training set's mean box, true class",
    }
    for key, name in names.items():
        if result[f"{key}_error"] is not None:
            low, high = result[f"{key}_interval"]
            lines.append(f"  {name}: {result[f'{key}_error']:.2f} % ({low:.2f} to {high:.2f})")
    if result["mean_box_iou"] is not None:
        iou, of_mean = result["mean_iou"], result["mean_box_iou"]
        lines.append(f"  mean IoU: {iou:.3f}, of the mean box {of_mean:.3f}")
    if result["difference"] is not None:
        low, high = result["difference_interval"]
        lines.append(f"  less the mean box's: {result['difference']:.2f} points ({low:.2f} to {high:.2f})")
    return "\n".join(lines)


def _track(
    folder: Folder,
    provenance: BoxProvenance,
    result: dict[str, Any],
    facts: LocalisationFacts,
    png: bytes,
    uri: str,
    experiment: str,
) -> str | None:
    """Deliver the result to MLflow; the address of its run, or None if the server does not answer."""
    info = _run_info(provenance, result, facts, experiment)
    keys = ("top1_error", "top5_error", "mean_box_error", "mean_iou", "images")
    metrics = {f"localisation/{key}": float(result[key]) for key in keys if result[key] is not None}
    nets = {net.weights_sha256: net.net for net in provenance.nets}
    return track_result(folder, info, uri, result, nets, metrics, {PICTURE: png})


def _run_info(
    provenance: BoxProvenance, result: dict[str, Any], facts: LocalisationFacts, experiment: str
) -> RunInfo:
    scales = "+".join(map(str, result["scales"]))
    shared = {key: str(result[key]) for key in ("net", "recipe", "configuration", "protocol", "images")}
    shared |= {"split": provenance.split, "data_digest": provenance.data, "threshold": str(facts.threshold)}
    counts = {key: str(result[key]) for key in ("top1_wrong", "top5_wrong", "mean_box_wrong")}
    name = f"{result['net']} boxes {result['protocol']} {scales}"
    return run_of_test(result, name, provenance, facts, shared, counts, experiment)
