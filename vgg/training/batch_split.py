"""How a worker's part of a batch is cut: into leaves of the gradient's tree, and into micro-batches."""

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.layout import Worker
from cluster.parallel.fixed_order import LEAVES, TreeSum
from cluster.partition import rank_slice
from vgg.training.step import micro_batches


@dataclass(frozen=True)
class BatchSplit:
    """The rows of one worker, and the pieces it works through one after another."""

    rows: range
    """Of the global batch."""
    pieces: list[slice]
    """Of this worker's rows."""
    leaf_of_piece: list[int]
    leaf_after: Mapping[int, int]
    """Piece -> leaf that is complete after it."""

    @classmethod
    def of(cls, worker: Worker, batch: int, micro_batch: int | None, tree: TreeSum | None) -> "BatchSplit":
        """Without a tree, rows are shared evenly; with one, whole leaves are, so that each is computed alike
        wherever it lies."""
        if tree is None:
            leaves, parts = [0], [rank_slice(worker.rank, worker.world, batch)]
        else:
            leaves = list(tree.leaves)
            parts = [rank_slice(leaf, LEAVES, batch) for leaf in leaves]
        rows = range(parts[0].start, parts[-1].stop)
        pieces: list[slice] = []
        leaf_of_piece: list[int] = []
        leaf_after: dict[int, int] = {}
        for leaf, part in zip(leaves, parts, strict=True):
            first, stop = part.start - rows.start, part.stop - rows.start
            cut = micro_batches(first, stop, micro_batch or len(part))
            pieces += cut
            leaf_of_piece += [leaf] * len(cut)
            leaf_after[len(pieces) - 1] = leaf
        return cls(rows, pieces, leaf_of_piece, leaf_after)
