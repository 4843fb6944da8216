"""The sum of the leaves' gradients along one binary tree, exchanged in buckets while others are still computed.

Shapes: P numbers of a bucket, padded to a multiple of the workers; N nodes of the tree that a worker holds.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import nn

from cluster.partition import rank_slice

LEAVES = 8

BUCKET_BYTES = 25 * 2**20  # DDP's own default

Node = tuple[int, int]
"""First leaf of a subtree, and how many it has: a power of two that divides the first."""

Held = list[tuple[Node, list[torch.Tensor]]]
"""Subtrees in order, each with its sum: a tensor for each parameter, or one slice of all."""


def nodes_of(leaves: Iterable[int]) -> list[Node]:
    """The largest complete subtrees that cover consecutive leaves."""
    nodes: list[Node] = []
    for leaf in leaves:
        nodes.append((leaf, 1))
        while len(nodes) > 1 and _siblings(nodes[-2], nodes[-1]):
            first, size = nodes[-2]
            nodes[-2:] = [(first, 2 * size)]
    return nodes


class TreeSum:
    """Takes the gradients of one leaf after another, then replaces them by the sum over all workers."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], rank: int, world: int, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        """Watches the parameters' gradients from now on. The last parameters' are expected first."""
        self._last_leaf = rank_slice(rank, world, LEAVES)[-1]
        self._buckets = [Bucket(group, rank, world) for group in _groups(parameters, bucket_bytes)]
        self._leaf: int | None = None
        self._sent = 0
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(partial(self._computed, bucket))

    @contextmanager
    def completes(self, leaf: int | None) -> Iterator[None]:
        """The backward pass within completes the gradients of this leaf; None: more of the leaf follows."""
        self._leaf = leaf
        yield
        assert leaf is None or all(bucket.missing == len(bucket.parameters) for bucket in self._buckets)

    def _computed(self, bucket: "Bucket", _: torch.Tensor) -> None:
        """A parameter's gradient of the leaf is complete."""
        if self._leaf is None:
            return
        bucket.missing -= 1
        if bucket.missing == 0:
            bucket.add_leaf(self._leaf)
            if self._leaf == self._last_leaf:
                self._send()

    def _send(self) -> None:
        """Send the complete buckets, in one order on all workers."""
        while self._sent < len(self._buckets) and self._buckets[self._sent].complete(self._last_leaf):
            self._buckets[self._sent].send()
            self._sent += 1

    def finish(self) -> None:
        """Leave the sum over all leaves of all workers as the parameters' gradients."""
        assert self._sent == len(self._buckets)
        self._sent = 0
        for step in (Bucket.add_up, Bucket.finish):
            for bucket in self._buckets:
                step(bucket)


class Bucket:
    """Parameters whose gradients travel together."""

    def __init__(self, parameters: Sequence[nn.Parameter], rank: int, world: int) -> None:
        self.parameters = parameters
        self.missing = len(parameters)
        """Gradients of the current leaf that are not there yet."""
        self._world, self._rank = world, rank
        self._nodes = [nodes_of(rank_slice(each, world, LEAVES)) for each in range(world)]
        self._held: Held = []
        self._padding = -sum(parameter.numel() for parameter in parameters) % world
        self._received = self._total_P = torch.empty(0)
        self._work: dist.Work | None = None

    def add_leaf(self, leaf: int) -> None:
        """Take the parameters' gradients as this leaf's."""
        gradients = []
        for parameter in self.parameters:
            assert parameter.grad is not None
            gradients.append(parameter.grad)
            parameter.grad = None
        self.missing = len(self.parameters)
        _add(self._held, (leaf, 1), gradients)

    def complete(self, last_leaf: int) -> bool:
        """Whether this worker's leaves are all in, `last_leaf` being the last of them."""
        return bool(self._held) and sum(self._held[-1][0]) == last_leaf + 1

    def send(self) -> None:
        """Start the exchange: each worker gets its slice of every subtree."""
        if self._world == 1:
            return
        mine_NP = torch.stack([self._flat(gradients) for _, gradients in self._held])
        self._held = []
        slice_size = mine_NP.shape[1] // self._world
        sent = mine_NP.view(len(mine_NP), self._world, slice_size).transpose(0, 1).flatten()
        counts = [len(nodes) * slice_size for nodes in self._nodes]
        self._received = sent.new_empty(sum(counts))
        own = [len(mine_NP) * slice_size] * self._world
        self._work = dist.all_to_all_single(self._received, sent, counts, own, async_op=True)

    def add_up(self) -> None:
        """Finish the tree for this worker's slice and start gathering those of all."""
        if self._work is None:
            return
        self._work.wait()
        nodes = [node for each in self._nodes for node in each]
        held: Held = []
        for node, values in zip(nodes, self._received.view(len(nodes), -1), strict=True):
            _add(held, node, [values])
        ((_, (total,)),) = held
        self._total_P = total.new_empty(self._world * len(total))
        self._work = dist.all_gather_into_tensor(self._total_P, total, async_op=True)

    def finish(self) -> None:
        """Set the parameters' gradients."""
        if self._work is None:
            ((_, gradients),) = self._held
            self._held = []
        else:
            self._work.wait()
            self._work = None
            sizes = [parameter.numel() for parameter in self.parameters]
            parts = self._total_P.split([*sizes, self._padding])
            self._received = self._total_P = torch.empty(0)
            gradients = [
                part.as_strided(parameter.shape, parameter.stride(), part.storage_offset())
                for part, parameter in zip(parts, self.parameters, strict=False)
            ]
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient

    def _flat(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """[P], each in the order of its parameter's memory."""
        parts = []
        for gradient, parameter in zip(gradients, self.parameters, strict=True):
            if gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)
            parts.append(gradient.as_strided((gradient.numel(),), (1,)))
        return torch.cat([*parts, parts[0].new_zeros(self._padding)])


def _groups(parameters: Sequence[nn.Parameter], size: int) -> list[list[nn.Parameter]]:
    """The parameters, last first, in groups of at most about `size` bytes."""
    groups: list[list[nn.Parameter]] = []
    room = 0
    for parameter in reversed(parameters):
        if not groups or room < parameter.nbytes:
            groups.append([])
            room = size
        groups[-1].append(parameter)
        room -= parameter.nbytes
    return groups


def _add(held: Held, node: Node, values: list[torch.Tensor]) -> None:
    """Append a subtree's sum and merge siblings for as long as there are any."""
    held.append((node, values))
    while len(held) > 1 and _siblings(held[-2][0], held[-1][0]):
        (first, size), left = held[-2]
        torch._foreach_add_(left, held[-1][1])
        held[-2:] = [((first, 2 * size), left)]


def _siblings(left: Node, right: Node) -> bool:
    return left[1] == right[1] and left[0] % (2 * left[1]) == 0 and right[0] == left[0] + left[1]
