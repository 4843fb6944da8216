"""From saved boxes to a published result: merged, counted, drawn."""

import io
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from pipelines.storage.folder import Folder
from vgg.localisation.errors import BoxErrors, count_errors
from vgg.localisation.opening import TestedData
from vgg.localisation.provenance import BoxProvenance
from vgg.localisation.stored import StoredBoxes
from vgg.pictures.boxes import box_montage
from vgg.reporting.localisation_facts import LocalisationFacts
from vgg.reporting.localisation_run import publish_boxes


def publish_errors(
    results: Sequence[StoredBoxes],
    data: TestedData,
    folder: Folder,
    threshold: float,
    tracking_uri: str | None,
    experiment: str,
) -> dict[str, Any]:
    """Count the errors of the union of all results' boxes and publish them; the content of result.json."""
    provenance = reduce(BoxProvenance.fused, (result.provenance for result in results))
    mean_box = data.manifest.boxes.mean if data.manifest.boxes is not None else None
    errors = count_errors(results, data.images_N, data.boxes, threshold, mean_box)
    labels = data.shards.labels_N[data.images_N].tolist()
    facts = LocalisationFacts.of(provenance, labels, threshold)
    return publish_boxes(folder, provenance, errors, facts, _picture(errors, data), tracking_uri, experiment)


def _picture(errors: BoxErrors, data: TestedData) -> Figure:
    images = [data.shards.encoded(located.image).tobytes() for located in errors.shown]
    return box_montage(
        [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in images],
        [data.manifest.class_names[located.label] for located in errors.shown],
        np.array([located.box_4 for located in errors.shown]).reshape(-1, 4),
        [data.boxes.of(located.image) for located in errors.shown],
        [located.iou for located in errors.shown],
    )
