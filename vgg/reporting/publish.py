"""Publish an evaluation or an ensemble: posteriors and result.json in a folder, and a run in MLflow that is
linked to its nets and its data set.
"""

from typing import Any

from pipelines.storage.folder import Folder
from vgg.metrics.accuracy import Tally, tally
from vgg.pictures.confusion import confusion_figure
from vgg.pictures.png import as_png
from vgg.reporting.evaluation_run import metrics, run_info
from vgg.reporting.result import EvaluationResult, Kind, picture_title, result_json
from vgg.reporting.result_folder import POSTERIORS
from vgg.reporting.track_result import track_result
from vgg.testing.posteriors import Posteriors, require_sound, write
from vgg.tracking.software import software


def publish(
    folder: Folder,
    posteriors: Posteriors,
    tracking_uri: str | None,
    experiment: str,
    *,
    kind: Kind,
    remark: str | None = None,
) -> EvaluationResult:
    """Write posteriors.arrow and result.json to the folder and track the result if there is a server.

    Published again, from whatever folder, the same result is the same run. Failure, with nothing written or
    tracked, if these are no class probabilities.
    """
    require_sound(posteriors)
    counted = tally(posteriors.posteriors_NK, posteriors.labels_N)
    scored = counted.accuracy()
    digest = write(folder, POSTERIORS, posteriors)
    result = result_json(kind, posteriors.provenance, scored, digest)
    result["identity"] = posteriors.identity
    result["software"] = software()
    url = None
    if tracking_uri is not None:
        url = _track(folder, posteriors, counted, result, tracking_uri, experiment)
    result["tracked_at"] = url
    folder.write_json("result.json", result)
    return EvaluationResult(folder, result, remark)


def _track(
    folder: Folder,
    posteriors: Posteriors,
    counted: Tally,
    result: dict[str, Any],
    uri: str,
    experiment: str,
) -> str | None:
    """Deliver the result to MLflow; the address of its run, or None if the server does not answer."""
    provenance = posteriors.provenance
    info = run_info(result, posteriors, f"{folder.uri}/{POSTERIORS}", experiment=experiment)
    nets = {member.weights_sha256: member.net for member, _ in provenance.members}
    confusion = confusion_figure(counted.confusion_KK, provenance.class_names, picture_title(result))
    pictures = {"confusion.png": as_png(confusion)}
    found = metrics(posteriors, counted.accuracy())
    return track_result(folder, info, uri, result, nets, found, pictures)
