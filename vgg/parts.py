"""Scores parts of protocols on the cluster, and keeps every block of images as soon as it is scored.

A part's blocks lie at `parts/PART/FIRST.arrow` below its net's folder; what is there is not scored again.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cluster.strategy import Layout
from pipelines.folder import Folder
from pipelines.meter import Meter
from pipelines.shards import Shards, read_manifest
from pipelines.stage import stage
from vgg import posteriors
from vgg.posteriors import About, Posteriors
from vgg.protocol import Part
from vgg.scoring import Scoring, Task, blocks, scorer

PartOfNet = tuple[int, Part]
"""Place of a net in the list of nets, and a part."""


def score_parts(
    scoring: Scoring,
    folders: Mapping[PartOfNet, Folder],
    abouts: Mapping[PartOfNet, About],
    layout: Layout,
) -> dict[PartOfNet, Posteriors]:
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
        for first, block in _kept(folder, key[1], abouts[key]).items()
    }
    tasks = [Task(*key, *block) for key in folders for block in cut if (key, block[0]) not in found]
    if tasks:
        from cluster.pool import work_off  # Ray takes a second to import: mistakes are told before that

        with Meter("scoring", sum(task.stop - task.first for task in tasks), "images") as meter:
            for task, scored_BK in work_off(scorer, scoring, tasks, layout):
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
    return {key: _joined([found[key, first] for first, _ in cut]) for key in folders}


def _kept(folder: Folder, part: Part, about: About) -> dict[int, Posteriors]:
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


def _name(part: Part, first: int) -> str:
    return f"parts/{part.name}/{first:08d}.arrow"


def _joined(cut: list[Posteriors]) -> Posteriors:
    """Blocks of one part in order."""
    return replace(
        cut[0],
        keys=tuple(key for block in cut for key in block.keys),
        labels_N=np.concatenate([block.labels_N for block in cut]),
        posteriors_NK=np.concatenate([block.posteriors_NK for block in cut]),
    )
