"""Scores parts of protocols on the cluster, and keeps every block of images as soon as it is scored.

A part's blocks lie at `parts/PART/FIRST.arrow` below its net's folder; what is there is not scored again.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cli.progress import ProgressMeter
from cluster.layout import Layout
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.staging import stage
from pipelines.storage.folder import Folder
from vgg.testing import posteriors
from vgg.testing.posteriors import Posteriors
from vgg.testing.protocols import Pass
from vgg.testing.provenance import Provenance
from vgg.testing.scoring import Scoring, ScoringTask, blocks, make_scorer

PassOfNet = tuple[int, Pass]
"""Place of a net in the list of nets, and a part."""


def score_passes(
    scoring: Scoring,
    folders: Mapping[PassOfNet, Folder],
    abouts: Mapping[PassOfNet, Provenance],
    layout: Layout,
) -> dict[PassOfNet, Posteriors]:
    """Posteriors of every part over the whole split, read from its folder or scored now.

    ValueError where the split is empty or the cluster has no room.
    """
    root = stage(scoring.data)
    shards = Shards(root, read_manifest(root), scoring.split)
    if not len(shards):
        raise ValueError(f"{root} has no image in split {scoring.split!r}")
    cut = blocks(len(shards))
    found = {
        (key, first): block
        for key, folder in folders.items()
        for first, block in _finished_blocks(folder, key[1], abouts[key]).items()
    }
    tasks = [ScoringTask(*key, *block) for key in folders for block in cut if (key, block[0]) not in found]
    if tasks:
        from cluster.tasks import run_on_workers

        with ProgressMeter("scoring", sum(task.stop - task.first for task in tasks), "images") as meter:
            for task, scored_BK in run_on_workers(make_scorer, scoring, tasks, layout):
                rows = range(task.first, task.stop)
                key = (task.net, task.part)
                block = Posteriors(
                    abouts[key],
                    tuple(shards.key(i) for i in rows),
                    shards.labels_N[task.first : task.stop].astype(np.int32),
                    scored_BK,
                )
                posteriors.write(folders[key], _name(task.part, task.first), block)
                found[key, task.first] = block
                meter.advance(len(rows))
    return {key: _concatenated([found[key, first] for first, _ in cut]) for key in folders}


def _finished_blocks(folder: Folder, part: Pass, about: Provenance) -> dict[int, Posteriors]:
    """Blocks of an earlier attempt at the very same, by their first image. What is damaged is scored again."""
    kept = {}
    for file in folder.names(f"parts/{part.name}"):
        if not file.endswith(".arrow"):
            continue
        try:
            block = posteriors.read(folder, f"parts/{part.name}/{file}")
        except ValueError as error:
            print(f"scored again: {error}", flush=True)
            continue
        if block.about == about:
            kept[int(file.removesuffix(".arrow"))] = block
    return kept


def _name(part: Pass, first: int) -> str:
    return f"parts/{part.name}/{first:08d}.arrow"


def _concatenated(cut: list[Posteriors]) -> Posteriors:
    """Blocks of one part in order."""
    return replace(
        cut[0],
        keys=tuple(key for block in cut for key in block.keys),
        labels_N=np.concatenate([block.labels_N for block in cut]),
        posteriors_NK=np.concatenate([block.posteriors_NK for block in cut]),
    )
