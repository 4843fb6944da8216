"""Scores passes over a split, and saves every block of images as soon as it is scored.

Blocks are files `parts/PASS/PRECISION-FIRST.arrow` in the net's folder; PASS tells all else that identifies the
pass. A block that is saved is not scored again, and blocks of several precisions are never put together.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cli.errors import Failure, UserError
from cli.progress import ProgressMeter
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.staging import stage
from pipelines.storage.folder import Folder
from vgg.metrics.rows import Rows
from vgg.testing import posteriors
from vgg.testing.identity import pass_name, scores_identity
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


@dataclass(frozen=True)
class Block:
    """The file of a block's images, `first` to `stop` - 1, and the digest of what was saved there."""

    file: str
    first: int
    stop: int
    sha256: str


Saved = dict[tuple[tuple[int, Pass], str], dict[int, str]]
"""(key of a pass, precision) -> the digest of each of its blocks by their first image."""


@dataclass(frozen=True)
class Images:
    """The images of a split, in order."""

    keys: tuple[str, ...]
    labels_N: np.ndarray
    """int32."""

    @classmethod
    def of(cls, shards: Shards, root: object, split: str) -> "Images":
        """UserError if there is none, or one is there twice."""
        keys = tuple(shards.key(i) for i in range(len(shards)))
        if not keys:
            raise UserError(f"{root} has no image in split {split!r}")
        if len(set(keys)) < len(keys):
            twice = Counter(keys).most_common(1)[0][0]
            raise UserError(f"{root} has the image {twice} twice in split {split!r}: pack the data set again")
        return cls(keys, shards.labels_N.astype(np.int32))

    def are_those_of(self, block: Posteriors, first: int) -> bool:
        """Whether a block is of the images from `first` on, with their labels."""
        rows = slice(first, first + len(block.keys))
        return block.keys == self.keys[rows] and np.array_equal(block.labels_N, self.labels_N[rows])


def score_passes(
    job: ScoringJob, passes: Sequence[PassOfNet], run_tasks: TaskRunner
) -> dict[tuple[int, Pass], Posteriors]:
    """Class probabilities of each pass over the whole split by its key: read from its folder or scored now.

    They stay in their blocks' files until they are asked for. All are of one precision: what `auto` stands for
    is known from the first worker that scores. UserError if the split is empty, Failure if workers differ in
    precision; whatever `run_tasks` raises.
    """
    split = job.split.split
    root = stage(job.split.data, splits=(split,), flag="--data")
    images = Images.of(Shards(root, read_manifest(root), split), root, split)
    bounds = blocks(len(images.keys))
    saved = _saved_blocks(passes, images, dict(bounds))
    precision = _most_saved(saved) if job.split.precision == "auto" else job.split.precision
    while tasks := [
        ScoringTask(*net_pass.key, first, stop)
        for net_pass in passes
        for first, stop in bounds
        if first not in saved.get((net_pass.key, precision), {})
    ]:
        precision = _score(tasks, passes, images, saved, run_tasks)
    return {
        net_pass.key: _whole_pass(net_pass, precision, images, saved[net_pass.key, precision])
        for net_pass in passes
    }


def _score(
    tasks: Sequence[ScoringTask],
    passes: Sequence[PassOfNet],
    images: Images,
    saved: Saved,
    run_tasks: TaskRunner,
) -> str:
    """Score the tasks, saving each block in its folder and its digest in `saved`; the precision of all."""
    by_key = {net_pass.key: net_pass for net_pass in passes}
    precision = ""
    scored_passes = len({(task.net, task.pass_) for task in tasks})
    what = "scoring" if scored_passes == 1 else f"scoring {len(images.keys):,} images by {scored_passes} passes"
    unit = "images" if scored_passes == 1 else "images of all passes"
    with ProgressMeter(what, sum(task.stop - task.first for task in tasks), unit) as meter:
        for task, scored in run_tasks(tasks):
            if precision not in ("", scored.precision):
                raise Failure(
                    f"one worker scores in {precision}, another in {scored.precision}: "
                    "name one for all with --precision"
                )
            precision = scored.precision
            net_pass, rows = by_key[task.net, task.pass_], slice(task.first, task.stop)
            block = Posteriors(
                net_pass.scored_in(precision), images.keys[rows], images.labels_N[rows], scored.posteriors_BK
            )
            file = net_pass.block_file(precision, task.first)
            digest = posteriors.write(net_pass.folder.underway(), file, block)
            saved.setdefault((net_pass.key, precision), {})[task.first] = digest
            meter.advance(task.stop - task.first)
    return precision


def _most_saved(saved: Saved) -> str:
    """The precision of which most blocks are saved; empty if none is."""
    counts: Counter[str] = Counter()
    for (_, precision), of_pass in sorted(saved.items(), key=lambda item: item[0][1]):
        counts[precision] += len(of_pass)
    return counts.most_common(1)[0][0] if counts else ""


def _saved_blocks(passes: Sequence[PassOfNet], images: Images, stop_by_first: Mapping[int, int]) -> Saved:
    """Undamaged blocks that an earlier run saved of the same pass, in whatever precision, and of the images
    that their place says.
    """
    saved: Saved = {}
    for net_pass in passes:
        for file in net_pass.folder.names(net_pass.block_folder):
            found = BLOCK_FILE.fullmatch(file)
            if found is None:
                continue
            precision, first = found[1], int(found[2])
            try:
                block = posteriors.read(net_pass.folder, f"{net_pass.block_folder}/{file}")
            except UserError as error:
                print(f"scored again: {error}", flush=True)
                continue
            of_pass = scores_identity(block.provenance) == scores_identity(net_pass.scored_in(precision))
            whole = first + len(block.keys) == stop_by_first.get(first)
            if of_pass and whole and images.are_those_of(block, first):
                saved.setdefault((net_pass.key, precision), {})[first] = block.digest
    return saved


class BlockRows(Rows):
    """The rows of a pass, each block of which is read from its file when it is asked for."""

    def __init__(self, folder: Folder, blocks_in_order: Sequence[Block], classes: int) -> None:
        super().__init__(blocks_in_order[-1].stop, classes)
        self._folder, self._blocks = folder, blocks_in_order

    def __getitem__(self, rows: slice) -> np.ndarray:
        parts = []
        for block in self._blocks:
            first, last = max(rows.start, block.first), min(rows.stop, block.stop)
            if first < last:
                found = posteriors.read(self._folder, block.file)
                if found.digest != block.sha256:
                    raise Failure(f"{self._folder.uri}/{block.file} changed while it was read: evaluate again")
                parts.append(np.asarray(found.posteriors_NK)[first - block.first : last - block.first])
        return np.concatenate(parts)


def _whole_pass(net_pass: PassOfNet, precision: str, images: Images, digests: Mapping[int, str]) -> Posteriors:
    """All blocks of a pass, which together are the split: each image once."""
    bounds = blocks(len(images.keys))
    in_order = [
        Block(net_pass.block_file(precision, first), first, stop, digests[first]) for first, stop in bounds
    ]
    stops = [0, *(block.stop for block in in_order)]
    assert stops == [*(block.first for block in in_order), len(images.keys)]
    provenance = net_pass.scored_in(precision)
    rows = BlockRows(net_pass.folder, in_order, len(provenance.classes))
    return Posteriors(provenance, images.keys, images.labels_N, rows)
