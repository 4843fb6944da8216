"""Gradients along one tree: the order of additions is written out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.parallel.tree_sum import LEAVES, TreeSum, nodes_of
from cluster.partition import rank_slice


@pytest.mark.parametrize("world", range(1, LEAVES + 1))
def test_leaves_are_shared_out_whole(world):
    shares = [rank_slice(rank, world, LEAVES) for rank in range(world)]
    assert [leaf for leaves in shares for leaf in leaves] == list(range(LEAVES))
    sizes = [len(leaves) for leaves in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("leaves", "nodes"),
    [
        (range(8), [(0, 8)]),
        (range(4, 8), [(4, 4)]),
        (range(3), [(0, 2), (2, 1)]),
        (range(3, 6), [(3, 1), (4, 2)]),
        (range(1, 8), [(1, 1), (2, 2), (4, 4)]),
    ],
)
def test_nodes_are_the_largest_whole_subtrees(leaves, nodes):
    assert nodes_of(leaves) == nodes


def add_leaf(tree, leaf, parameters, gradients):
    """A backward pass that gives these gradients."""
    with tree.completes(leaf):
        products = [(p * g).sum() for p, g in zip(parameters, gradients, strict=True)]
        torch.stack(products).sum().backward()


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=LEAVES, max_size=LEAVES))
def test_one_worker_adds_up_along_the_tree(values):
    """In float32 the order shows: another one gives other bits for many of these."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    tree = TreeSum([parameter], rank=0, world=1)
    for leaf, value in enumerate(values):
        add_leaf(tree, leaf, [parameter], [torch.tensor([value])])
        assert parameter.grad is None
    tree.finish()
    a, b, c, d, e, f, g, h = np.array(values, np.float32)
    wanted = ((a + b) + (c + d)) + ((e + f) + (g + h))
    assert parameter.grad is not None
    assert parameter.grad.numpy() == wanted


@pytest.mark.parametrize("bucket_bytes", [1, 10**9])
def test_gradients_come_back_in_their_parameters_shape_and_layout(bucket_bytes):
    convolution = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    parameters = list(convolution.parameters())
    wanted = [torch.randn_like(p) for p in parameters]
    tree = TreeSum(parameters, rank=0, world=1, bucket_bytes=bucket_bytes)
    for _ in range(2):
        for leaf in range(LEAVES):
            add_leaf(tree, leaf, parameters, wanted)
        tree.finish()
        for parameter, gradient in zip(parameters, wanted, strict=True):
            assert parameter.grad is not None
            assert torch.equal(parameter.grad, 8 * gradient)
            assert parameter.grad.stride() == parameter.stride()
            parameter.grad = None
