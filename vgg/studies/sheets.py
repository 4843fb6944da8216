"""The pictures of a study's report: every training's curves, and what the nets take some images for."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pipelines.shards.manifest import Manifest
from pipelines.shards.reader import Shards
from pipelines.shards.staging import DEFAULT_FOLDER, StagingOptions, stage
from pipelines.storage.folder import Folder
from vgg.pictures.study_sheets import Answer, History, answers_sheet, curves_sheet
from vgg.studies.graph import Node, Training
from vgg.studies.record import StepResult
from vgg.studies.results import TestedRow
from vgg.studies.steps import StudyJob
from vgg.testing import posteriors
from vgg.testing.prediction import packed_image

SHOWN_IMAGES = 12
SHOWN_NETS = 9


def curves_of(nodes: Sequence[Node], results: Mapping[str, StepResult]) -> Figure | None:
    """The learning curves of every training that is done; None if there is none."""
    histories = []
    for node in nodes:
        if not isinstance(node.step, Training) or node.name not in results:
            continue
        result = Folder(results[node.name].folder).read_json("result.json")
        batch, found = result["settings"]["train.batch"], result["validations"]
        counted = [v.get("train_top1") for v in found]
        histories.append(
            History(
                node.step.name,
                [float(batch * v["step"]) for v in found],
                [None if top1 is None else 100 * (1 - top1) for top1 in counted],
                [100 * (1 - v["top1"]) for v in found],
                [v["train_loss"] for v in found],
                [v["loss"] for v in found],
            )
        )
    return curves_sheet(histories) if histories else None


def answers_of(rows: Sequence[TestedRow], job: StudyJob, manifest: Manifest) -> Figure | None:
    """What the first nets, tested alike, take images chosen at random for; None before there is a test."""
    tested = [row for row in rows if row.kind == "evaluation"]
    if not tested:
        return None
    alike = [row for row in tested if (row.protocol, row.scales) == (tested[0].protocol, tested[0].scales)]
    folder = Path(job.layout.stage_dir or DEFAULT_FOLDER)
    root = stage(StagingOptions(job.data, folder, job.layout.stage_gb), splits=("val",), underway=True)
    shards = Shards(root, manifest, "val")
    count = min(SHOWN_IMAGES, len(shards))
    images = sorted(np.random.default_rng(0).choice(len(shards), count, replace=False).tolist())
    names = manifest.class_names
    answers = {}
    for row in alike[:SHOWN_NETS]:
        found = posteriors.open_file(row.files[min(row.files)], "posteriors.arrow")
        posteriors_BK = np.concatenate([found.posteriors_NK[i : i + 1] for i in images])
        best_B = posteriors_BK.argmax(1).tolist()
        answers[row.step] = [
            Answer(names[best], float(each_K[best]), best == int(shards.labels_N[i]))
            for i, best, each_K in zip(images, best_B, posteriors_BK, strict=True)
        ]
    pixels = [np.asarray(packed_image(shards, i).open()) for i in images]
    truths = [names[int(shards.labels_N[i])] for i in images]
    title = f"{alike[0].protocol}, {alike[0].scales}, seed {min(alike[0].files)}: validation images at random"
    return answers_sheet(pixels, truths, answers, title)
