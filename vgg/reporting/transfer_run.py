"""Publish a test of classifiers on features: result.json in its folder, and a run in MLflow."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pipelines.storage.folder import Folder
from vgg.reporting.track_result import run_of_test, track_result
from vgg.reporting.transfer_facts import TransferFacts
from vgg.tracking.run_info import RunInfo
from vgg.tracking.software import software
from vgg.transferring.fitting import Fit
from vgg.transferring.provenance import WHOLE_IMAGE, FeatureProvenance

KIND = "transfer"
MEASURES = {
    "mean_class_recall": "mean class recall",
    "accuracy": "accuracy",
    "map_2007": "mAP (VOC 2007's, 11 points)",
    "map_2010": "mAP (VOC 2010's, area)",
}


def publish_transfer(
    folder: Folder,
    provenance: FeatureProvenance,
    fit: Fit,
    draws: Sequence[dict[str, Any]],
    images: int,
    tracking_uri: str | None,
    experiment: str,
) -> dict[str, Any]:
    """Write the result and track it if there is a server; the content of result.json. `images`: of all splits.

    Published again, the same result is the same run.
    """
    measured = {name: [draw[name] for draw in draws] for name in MEASURES if name in draws[0]}
    result = {
        "format": 1,
        "kind": KIND,
        "net": " + ".join(net.net for net in provenance.nets),
        "recipe": " + ".join(net.recipe for net in provenance.nets),
        "configuration": " + ".join(net.configuration for net in provenance.nets),
        "combine": provenance.combine,
        "regions": list(provenance.regions),
        "scales": sorted({scale for net in provenance.nets for scale in net.scales}),
        "members": [asdict(net) for net in provenance.nets],
        "data": {"digest": provenance.data, "source": provenance.source, "classes": len(provenance.classes)},
        **asdict(fit),
        **{name: statistics.fmean(values) for name, values in measured.items()},
        **{
            f"{name}_std": statistics.stdev(values) if len(values) > 1 else None
            for name, values in measured.items()
        },
        "draws": list(draws),
        "identity": fit.identity(provenance),
        "software": software(),
    }
    result["tracked_at"] = None
    if tracking_uri is not None:
        facts = TransferFacts.of(provenance, fit, images, draws)
        result["tracked_at"] = _track(folder, provenance, result, facts, tracking_uri, experiment)
    folder.write_json("result.json", result)
    return result


def summary(result: dict[str, Any]) -> str:
    """Nets, scales, data and measures for people."""
    scales = ", ".join(map(str, result["scales"]))
    draws, images = result["draws"], result["draws"][0]["images"]
    lines = [
        f"{result['net']}, Q = {scales} ({result['combine']}{of_regions(result['regions'])}), "
        f"{result['data']['source']}, "
        f"{draws[0]['trained_on']:,} images learned from, {images:,} tested on"
        + (f", {len(draws)} random splits" if len(draws) > 1 else "")
        + ":"
    ]
    for name, words in MEASURES.items():
        if name in result:
            deviation = result[f"{name}_std"]
            spread = "" if deviation is None else f" ± {deviation:.2f}"
            if name == "accuracy" and len(draws) == 1:
                low, high = draws[0]["accuracy_interval"]
                spread = f" ({low:.2f} to {high:.2f})"
            lines.append(f"  {words}: {result[name]:.2f} %{spread}")
    return "\n".join(lines)


def of_regions(regions: Sequence[str]) -> str:
    """Words for what the features are of; none for whole images."""
    return "" if tuple(regions) == WHOLE_IMAGE else f", of {' and '.join(regions)}"


def _track(
    folder: Folder,
    provenance: FeatureProvenance,
    result: dict[str, Any],
    facts: TransferFacts,
    uri: str,
    experiment: str,
) -> str | None:
    """Deliver the result to MLflow; the address of its run, or None if the server does not answer."""
    info = _run_info(provenance, result, facts, experiment)
    metrics = {f"transfer/{name}": float(result[name]) for name in MEASURES if name in result}
    nets = {net.weights_sha256: net.net for net in provenance.nets}
    return track_result(folder, info, uri, result, nets, metrics, {})


def _run_info(
    provenance: FeatureProvenance, result: dict[str, Any], facts: TransferFacts, experiment: str
) -> RunInfo:
    scales = "+".join(map(str, result["scales"]))
    shared = {key: str(result[key]) for key in ("net", "recipe", "configuration", "combine")}
    shared |= {"regions": "+".join(result["regions"])}
    shared |= {"data_digest": provenance.data, "train": "+".join(result["train"])}
    shared |= {"split": "+".join(result["test"]), **{key: str(value) for key, value in result["rule"].items()}}
    measured = {name: repr(result[name]) for name in MEASURES if name in result}
    measured |= {f"{name}_std": repr(result[f"{name}_std"]) for name in measured}
    name = f"{result['configuration']} features {scales}{of_regions(result['regions'])}"
    return run_of_test(result, name, provenance, facts, shared, measured, experiment)
