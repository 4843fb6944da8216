"""Gradients summed in one fixed order, whatever the number of workers.

A batch is cut into `LEAVES` parts. The gradient of each is computed alone, and the parts are added up along one
binary tree: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)). A worker adds up the subtrees that it holds whole; what
is left is exchanged in slices, each worker finishing the tree for its own slice. So 1, 2, 3 … 8 workers end
with the very same bytes, where a ring adds up in an order of its own for each number of them.

Shapes: P numbers in all gradients, padded to a multiple of the workers; N nodes of the tree.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

from cluster.layout import Layout, Worker

LEAVES = 8


Node = tuple[int, int]
"""First leaf of a subtree, and how many it has: a power of two that divides the first."""


def leaves_of(rank: int, world: int) -> range:
    """The leaves that a worker computes; at most one more than another."""
    each, left = divmod(LEAVES, world)
    first = rank * each + min(rank, left)
    return range(first, first + each + (rank < left))


def nodes_of(leaves: Iterable[int]) -> list[Node]:
    """The largest subtrees that cover consecutive leaves."""
    nodes: list[Node] = []
    for leaf in leaves:
        nodes.append((leaf, 1))
        while len(nodes) > 1 and _siblings(nodes[-2], nodes[-1]):
            first, size = nodes[-2]
            nodes[-2:] = [(first, 2 * size)]
    return nodes


class TreeSum:
    """Takes the gradients of one leaf after another, then puts the sum over all workers in their place."""

    def __init__(self, parameters: Iterable[nn.Parameter], rank: int, world: int) -> None:
        self._parameters = list(parameters)
        self._rank, self._world = rank, world
        self.leaves = leaves_of(rank, world)
        size = sum(parameter.numel() for parameter in self._parameters)
        self._padding = -size % world
        self._held: list[tuple[Node, torch.Tensor]] = []

    def take(self, leaf: int) -> None:
        """Add the gradients of this worker's next leaf to the tree, and clear them."""
        parts = [parameter.grad.flatten() for parameter in self._parameters if parameter.grad is not None]
        assert len(parts) == len(self._parameters)
        flat_P = torch.cat([*parts, parts[0].new_zeros(self._padding)])
        for parameter in self._parameters:
            parameter.grad = None
        _add(self._held, (leaf, 1), flat_P)

    def finish(self) -> None:
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
        nodes = [nodes_of(leaves_of(rank, self._world)) for rank in range(self._world)]
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


def uses_fixed_order(layout: Layout, worker: Worker, batch: int) -> bool:
    """Whether gradients are added up along the fixed tree."""
    possible = worker.world <= LEAVES <= batch
    assert possible or layout.reduce != "fixed-order"
    if layout.reduce == "auto":
        return possible and worker.device.type == "cpu"
    return layout.reduce == "fixed-order"
