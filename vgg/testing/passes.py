"""Scores passes over a split, and saves every block of images as soon as it is scored.

Blocks are files `parts/PASS/PRECISION-FIRST.arrow` in the net's folder; PASS tells all else that identifies the
pass. A block that is saved is not scored again, and blocks of several precisions are never put together.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cli.errors import Failure, UserError
from cli.progress import ProgressMeter
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.staging import stage
from pipelines.storage.folder import Folder
from vgg.testing import posteriors
from vgg.testing.identity import pass_name
from vgg.testing.posteriors import Posteriors
from vgg.testing.protocols import Pass
from vgg.testing.provenance import Provenance
from vgg.testing.scoring import ScoredBlock, ScoringJob, ScoringTask, blocks

BLOCK_FILE = re.compile(r"(fp32|bf16|fp16)-(\d{8})\.arrow")

TaskRunner = Callable[[Sequence[ScoringTask]], Iterable[tuple[ScoringTask, ScoredBlock]]]
"""Scores tasks, on a cluster say: yields each with what was made of it, in any order.

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
        return f"parts/{pass_name(self.provenance)}"

    def block_file(self, precision: str, first: int) -> str:
        """Path below `folder` of the block that begins with image `first`."""
        return f"{self.block_folder}/{precision}-{first:08d}.arrow"

    def scored_in(self, precision: str) -> Provenance:
        """The provenance of what was scored in fp32, bf16 or fp16."""
        ((member, weight),) = self.provenance.members
        return replace(self.provenance, members=((replace(member, precision=precision), weight),))


Saved = dict[tuple[tuple[int, Pass], str], dict[int, Posteriors]]
"""(key of a pass, precision) -> its blocks by their first image."""


def score_passes(
    job: ScoringJob, passes: Sequence[PassOfNet], run_tasks: TaskRunner
) -> dict[tuple[int, Pass], Posteriors]:
    """Class probabilities of each pass over the whole split by its key: read from its folder or scored now.

    All are of one precision: what `auto` stands for is known from the first worker that scores. UserError if
    the split is empty, Failure if workers differ in precision; whatever `run_tasks` raises.
    """
    root = stage(job.data)
    shards = Shards(root, read_manifest(root), job.split)
    if not len(shards):
        raise UserError(f"{root} has no image in split {job.split!r}")
    bounds = blocks(len(shards))
    saved = _saved_blocks(passes)
    precision = _most_saved(saved) if job.precision == "auto" else job.precision
    while tasks := [
        ScoringTask(*net_pass.key, first, stop)
        for net_pass in passes
        for first, stop in bounds
        if first not in saved.get((net_pass.key, precision), {})
    ]:
        precision = _score(tasks, passes, shards, saved, run_tasks)
    return {
        net_pass.key: _concatenate([saved[net_pass.key, precision][first] for first, _ in bounds])
        for net_pass in passes
    }


def _score(
    tasks: Sequence[ScoringTask],
    passes: Sequence[PassOfNet],
    shards: Shards,
    saved: Saved,
    run_tasks: TaskRunner,
) -> str:
    """Score the tasks, saving each block in its folder and in `saved`; the precision of all."""
    by_key = {net_pass.key: net_pass for net_pass in passes}
    precision = ""
    with ProgressMeter("scoring", sum(task.stop - task.first for task in tasks), "images") as meter:
        for task, scored in run_tasks(tasks):
            if precision not in ("", scored.precision):
                raise Failure(
                    f"one worker scores in {precision}, another in {scored.precision}: "
                    "name one for all with --precision"
                )
            precision = scored.precision
            net_pass = by_key[task.net, task.pass_]
            block = Posteriors(
                net_pass.scored_in(precision),
                tuple(shards.key(i) for i in range(task.first, task.stop)),
                shards.labels_N[task.first : task.stop].astype(np.int32),
                scored.posteriors_BK,
            )
            posteriors.write(net_pass.folder, net_pass.block_file(precision, task.first), block)
            saved.setdefault((net_pass.key, precision), {})[task.first] = block
            meter.advance(task.stop - task.first)
    return precision


def _most_saved(saved: Saved) -> str:
    """The precision of which most blocks are saved; empty if none is."""
    counts: Counter[str] = Counter()
    for (_, precision), of_pass in sorted(saved.items(), key=lambda item: item[0][1]):
        counts[precision] += len(of_pass)
    return counts.most_common(1)[0][0] if counts else ""


def _saved_blocks(passes: Sequence[PassOfNet]) -> Saved:
    """Undamaged blocks of the same provenance but for the precision that an earlier run saved."""
    saved: Saved = {}
    for net_pass in passes:
        for file in net_pass.folder.names(net_pass.block_folder):
            found = BLOCK_FILE.fullmatch(file)
            if found is None:
                continue
            try:
                block = posteriors.read(net_pass.folder, f"{net_pass.block_folder}/{file}")
            except UserError as error:
                print(f"scored again: {error}", flush=True)
                continue
            if block.provenance == net_pass.scored_in(found[1]):
                saved.setdefault((net_pass.key, found[1]), {})[int(found[2])] = block
    return saved


def _concatenate(blocks_in_order: list[Posteriors]) -> Posteriors:
    return replace(
        blocks_in_order[0],
        keys=tuple(key for block in blocks_in_order for key in block.keys),
        labels_N=np.concatenate([block.labels_N for block in blocks_in_order]),
        posteriors_NK=np.concatenate([block.posteriors_NK for block in blocks_in_order]),
    )
