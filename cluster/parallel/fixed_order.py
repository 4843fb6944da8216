"""Gradients summed in one fixed order, whatever the number of workers.

A batch is divided into `LEAVES` parts. The gradient of each is computed separately, and they are added along
one binary tree: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)). A worker adds the subtrees that it holds completely;
the rest is exchanged in slices, each worker finishing the tree for its own slice. So 1, 2, 3 … 8 workers end
with the same bytes, where the order of a ring all-reduce depends on their number.

Shapes: P numbers in all gradients, padded to a multiple of the workers; L leaves.
"""

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import nn

from cluster.layout import Worker
from cluster.partition import micro_batches, rank_slice

LEAVES = 8


Node = tuple[int, int]
"""First leaf of a subtree, and how many it has: a power of two that divides the first."""


def nodes_of(leaves: Iterable[int]) -> list[Node]:
    """The largest complete subtrees that cover consecutive leaves."""
    nodes: list[Node] = []
    for leaf in leaves:
        nodes.append((leaf, 1))
        while len(nodes) > 1 and _siblings(nodes[-2], nodes[-1]):
            first, size = nodes[-2]
            nodes[-2:] = [(first, 2 * size)]
    return nodes


class FixedOrderReducer:
    """Whole leaves of the batch on each worker, so that each leaf is computed alike wherever it lies."""

    def __init__(self, net: nn.Module, worker: Worker, batch: int, micro_batch: int | None) -> None:
        """`micro_batch`: rows of a pass at most; None: a whole leaf."""
        self.module, self.batch, self._device = net, batch, worker.device
        leaves = rank_slice(worker.rank, worker.world, LEAVES)
        rows_of_leaf = [rank_slice(leaf, LEAVES, batch) for leaf in leaves]
        first, stop = rows_of_leaf[0].start, rows_of_leaf[-1].stop
        self.rows = range(first, stop)
        self._leaves = [
            (leaf, micro_batches(range(rows.start - first, rows.stop - first), micro_batch))
            for leaf, rows in zip(leaves, rows_of_leaf, strict=True)
        ]
        self._tree = TreeSum(net.parameters(), worker.rank, worker.world)

    def backward(
        self, loss_of_rows: Callable[[slice], torch.Tensor], scaler: torch.amp.GradScaler
    ) -> torch.Tensor:
        """See `GradientReducer.backward`."""
        losses_L = torch.zeros(LEAVES, device=self._device)
        for leaf, slices in self._leaves:
            for rows in slices:
                loss = loss_of_rows(rows)
                scaler.scale(loss).backward()
                losses_L[leaf] += loss.detach()
            self._tree.add_leaf(leaf)
        self._tree.all_reduce()
        return losses_L


class TreeSum:
    """Takes the gradients of one leaf after another, then replaces them by the sum over all workers."""

    def __init__(self, parameters: Iterable[nn.Parameter], rank: int, world: int) -> None:
        self._parameters = list(parameters)
        self._rank, self._world = rank, world
        size = sum(parameter.numel() for parameter in self._parameters)
        self._padding = -size % world
        self._held: list[tuple[Node, torch.Tensor]] = []

    def add_leaf(self, leaf: int) -> None:
        """Add the gradients of this worker's next leaf to the tree, and clear them."""
        parts = [parameter.grad.flatten() for parameter in self._parameters if parameter.grad is not None]
        assert len(parts) == len(self._parameters)
        flat_P = torch.cat([*parts, parts[0].new_zeros(self._padding)])
        for parameter in self._parameters:
            parameter.grad = None
        _add(self._held, (leaf, 1), flat_P)

    def all_reduce(self) -> None:
        """Leave the sum over all leaves of all workers as the parameters' gradients."""
        mine = [flat_P for _, flat_P in self._held]
        self._held = []
        total_P = mine[0] if self._world == 1 else self._exchange(mine)
        place = 0
        for parameter in self._parameters:
            values = total_P[place : place + parameter.numel()]
            parameter.grad = torch.empty_like(parameter).copy_(values.view(parameter.shape))
            place += parameter.numel()

    def _exchange(self, mine: list[torch.Tensor]) -> torch.Tensor:
        nodes = [nodes_of(rank_slice(rank, self._world, LEAVES)) for rank in range(self._world)]
        slice_size = len(mine[0]) // self._world
        sent = torch.stack([flat_P.view(self._world, slice_size) for flat_P in mine], dim=1).flatten()
        counts = [len(each) * slice_size for each in nodes]
        received = sent.new_empty(sum(counts))
        dist.all_to_all_single(received, sent, counts, [len(mine) * slice_size] * self._world)
        held: list[tuple[Node, torch.Tensor]] = []
        flat = [node for each in nodes for node in each]
        for node, values in zip(flat, received.view(len(flat), slice_size), strict=True):
            _add(held, node, values)
        ((_, total),) = held
        total_P = total.new_empty(self._world * slice_size)
        dist.all_gather_into_tensor(total_P, total)
        return total_P


def _add(held: list[tuple[Node, torch.Tensor]], node: Node, values: torch.Tensor) -> None:
    """Append a subtree's sum and merge siblings for as long as there are any."""
    held.append((node, values))
    while len(held) > 1 and _siblings(held[-2][0], held[-1][0]):
        (first, size), left = held[-2]
        held[-2:] = [((first, 2 * size), left.add_(held[-1][1]))]


def _siblings(left: Node, right: Node) -> bool:
    return left[1] == right[1] and left[0] % (2 * left[1]) == 0 and right[0] == left[0] + left[1]
