"""Gradients summed in one fixed order, whatever the number of workers.

A batch is divided into `LEAVES` parts. The gradient of each is computed separately, and they are added along
one binary tree: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)). A worker adds the subtrees that it holds completely;
the rest is exchanged in slices, each worker finishing the tree for its own slice. So 1, 2, 3 … 8 workers end
with the same bytes, where the order of a ring all-reduce depends on their number.

Gradients are sent in buckets, each as soon as the backward pass of the worker's last leaf has computed it.
"""

from collections.abc import Callable

import torch
from torch import nn

from cluster.layout import Worker
from cluster.parallel.gathered import gather_linears, others
from cluster.parallel.tree_sum import LEAVES, TreeSum
from cluster.partition import micro_batches, rank_slice
from cluster.progress import Part


class FixedOrderReducer:
    """Whole leaves of the batch on each worker, so that each leaf is computed alike wherever it lies."""

    def __init__(
        self, net: nn.Module, worker: Worker, batch: int, micro_batch: int | None, *, gather: bool
    ) -> None:
        """`micro_batch`: rows of a pass at most; None: a leaf. `gather`: see `cluster.parallel.gathered`."""
        self.module, self.batch, self._device = net, batch, worker.device
        self._progress = worker.progress
        shares = [_rows_of_rank(rank, worker.world, batch) for rank in range(worker.world)]
        self.rows = shares[worker.rank]
        self._leaves = []
        for leaf in rank_slice(worker.rank, worker.world, LEAVES):
            rows, first = rank_slice(leaf, LEAVES, batch), self.rows.start
            passes = micro_batches(range(rows.start - first, rows.stop - first), micro_batch)
            self._leaves.append((leaf, passes))
        self._gathered = gather_linears(net, worker, shares) if gather else []
        self._tree = TreeSum(others(net, self._gathered), worker.rank, worker.world)

    def backward(
        self, loss_of_rows: Callable[[slice], torch.Tensor], scaler: torch.amp.GradScaler
    ) -> torch.Tensor:
        """See `GradientReducer.backward`."""
        losses_L = torch.zeros(LEAVES, device=self._device)
        for leaf, passes in self._leaves:
            for rows in passes:
                loss = loss_of_rows(rows)
                with self._tree.completes(leaf if rows == passes[-1] else None):
                    scaler.scale(loss).backward()
                losses_L[leaf] += loss.detach()
        with self._progress.at(Part.EXCHANGE):
            self._tree.finish()
            for layer in self._gathered:
                layer.finish()
        return losses_L


def _rows_of_rank(rank: int, world: int, batch: int) -> range:
    leaves = rank_slice(rank, world, LEAVES)
    return range(rank_slice(leaves[0], LEAVES, batch).start, rank_slice(leaves[-1], LEAVES, batch).stop)
