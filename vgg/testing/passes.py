"""Scores passes over a split, and saves every block of images as soon as it is scored.

Blocks are files `parts/PASS/FIRST.arrow` in the net's folder. A block that is saved is not scored again.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cli.errors import UserError
from cli.progress import ProgressMeter
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.staging import stage
from pipelines.storage.folder import Folder
from vgg.testing import posteriors
from vgg.testing.posteriors import Posteriors
from vgg.testing.protocols import Pass
from vgg.testing.provenance import Provenance
from vgg.testing.scoring import ScoringJob, ScoringTask, blocks

TaskRunner = Callable[[Sequence[ScoringTask]], Iterable[tuple[ScoringTask, np.ndarray]]]
"""Scores tasks, on a cluster say: yields each with the class probabilities [B, K] of its images, in any order.

Called only if there is something to score. A `Scorer` does the work on each worker.
"""


@dataclass(frozen=True)
class PassOfNet:
    """A pass of one of the job's nets, and where its blocks are saved."""

    net: int
    """Index in the job's nets."""
    pass_: Pass
    folder: Folder
    provenance: Provenance

    @property
    def key(self) -> tuple[int, Pass]:
        """Identifies it among the job's passes."""
        return self.net, self.pass_

    @property
    def block_folder(self) -> str:
        """Path of its blocks below `folder`."""
        return f"parts/{self.pass_.name}"


def score_passes(
    job: ScoringJob, passes: Sequence[PassOfNet], run_tasks: TaskRunner
) -> dict[tuple[int, Pass], Posteriors]:
    """Class probabilities of each pass over the whole split by its key: read from its folder or scored now.

    UserError if the split is empty; whatever `run_tasks` raises.
    """
    root = stage(job.data)
    shards = Shards(root, read_manifest(root), job.split)
    if not len(shards):
        raise UserError(f"{root} has no image in split {job.split!r}")
    bounds = blocks(len(shards))
    blocks_of = {net_pass.key: _saved_blocks(net_pass) for net_pass in passes}
    tasks = [
        ScoringTask(*net_pass.key, first, stop)
        for net_pass in passes
        for first, stop in bounds
        if first not in blocks_of[net_pass.key]
    ]
    if tasks:
        by_key = {net_pass.key: net_pass for net_pass in passes}
        with ProgressMeter("scoring", sum(task.stop - task.first for task in tasks), "images") as meter:
            for task, posteriors_BK in run_tasks(tasks):
                net_pass = by_key[task.net, task.pass_]
                block = Posteriors(
                    net_pass.provenance,
                    tuple(shards.key(i) for i in range(task.first, task.stop)),
                    shards.labels_N[task.first : task.stop].astype(np.int32),
                    posteriors_BK,
                )
                posteriors.write(net_pass.folder, f"{net_pass.block_folder}/{task.first:08d}.arrow", block)
                blocks_of[net_pass.key][task.first] = block
                meter.advance(task.stop - task.first)
    return {key: _concatenate([saved[first] for first, _ in bounds]) for key, saved in blocks_of.items()}


def _saved_blocks(net_pass: PassOfNet) -> dict[int, Posteriors]:
    """Undamaged blocks of the same provenance that an earlier run saved, by their first image."""
    saved = {}
    for file in net_pass.folder.names(net_pass.block_folder):
        if not file.endswith(".arrow"):
            continue
        try:
            block = posteriors.read(net_pass.folder, f"{net_pass.block_folder}/{file}")
        except UserError as error:
            print(f"scored again: {error}", flush=True)
            continue
        if block.provenance == net_pass.provenance:
            saved[int(file.removesuffix(".arrow"))] = block
    return saved


def _concatenate(blocks_in_order: list[Posteriors]) -> Posteriors:
    return replace(
        blocks_in_order[0],
        keys=tuple(key for block in blocks_in_order for key in block.keys),
        labels_N=np.concatenate([block.labels_N for block in blocks_in_order]),
        posteriors_NK=np.concatenate([block.posteriors_NK for block in blocks_in_order]),
    )
