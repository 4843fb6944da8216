"""Every reducer leaves the gradient of the global batch, held to float64 arithmetic in one process.

Shapes: B rows of the global batch, C = 3, H and W image sides in pixels, I inputs and O outputs of a layer.
"""

import copy
import socket
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from cluster.layout import Layout, Worker
from cluster.parallel.choose import gradient_reducer
from cluster.parallel.gathered import GatheredLinear, gather_linears

CPU = torch.device("cpu")
ROWS = 64
REDUCE, FC, MICRO_BATCH = ("fixed-order", "ddp"), ("gathered", "all-reduce"), (None, 3)
CASES = [
    *product(REDUCE, FC, MICRO_BATCH, [torch.float32]),
    *product(REDUCE, FC, [None], [torch.bfloat16]),
]


class Net(torch.nn.Module):
    """Small convolutions; fc6 and fc7 are cheaper to gather, fc8 is not."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = torch.nn.Conv2d(8, 16, 3, padding=1)
        self.fc6 = torch.nn.Linear(16 * 16, 512)
        self.fc7 = torch.nn.Linear(512, 512)
        self.fc8 = torch.nn.Linear(512, 10)
        self.to(memory_format=torch.channels_last)

    def forward(self, images_BCHW):
        maps_BCHW = F.relu(self.conv2(F.relu(self.conv1(images_BCHW))))
        hidden_BI = F.max_pool2d(maps_BCHW, 2).flatten(1)
        return self.fc8(F.relu(self.fc7(F.relu(self.fc6(hidden_BI)))))


def batch(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    images_BCHW = torch.randn(ROWS, 3, 8, 8, generator=generator, dtype=torch.float64)
    return images_BCHW.to(dtype), torch.randint(0, 10, (ROWS,), generator=generator)


def reduced(rank, world, reduce, fc, micro_batch, dtype, scale=1.0):
    """The gradients that a worker ends with, after a second step."""
    net, worker = Net(), Worker(rank, world, rank, CPU, 1)
    layout = Layout(workers=world, reduce=reduce, fc=fc, micro_batch=micro_batch)
    images_BCHW, labels_B = batch()
    reducer = gradient_reducer(net, worker, layout, ROWS, images_BCHW[:1])
    own = slice(reducer.rows.start, reducer.rows.stop)
    images_BCHW, labels_B = images_BCHW[own], labels_B[own]

    def loss_of(rows):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            scores_BO = reducer.module(images_BCHW[rows])
        return F.cross_entropy(scores_BO.float(), labels_B[rows], reduction="sum") / ROWS * scale

    for _ in range(2):
        net.zero_grad(set_to_none=True)
        reducer.backward(loss_of, torch.amp.GradScaler("cpu", enabled=False))
    gradients = {}
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        gradients[name] = parameter.grad.clone(memory_format=torch.contiguous_format)
    return gradients


def all_cases(rank, world, port):
    """Every case on one of so many workers."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    try:
        return {case: reduced(rank, world, *case) for case in CASES}
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def found():
    """world -> rank -> case -> gradients."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = {case: reduced(0, 1, *case) for case in CASES}
    torch.set_num_threads(threads)
    result = {1: [alone]}
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        for world in (2, 3):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            futures = [pool.submit(all_cases, rank, world, port) for rank in range(world)]
            result[world] = [future.result(timeout=300) for future in futures]
    return result


@pytest.fixture(scope="module")
def exact():
    """In float64."""
    net = Net().double()
    images_BCHW, labels_B = batch(torch.float64)
    F.cross_entropy(net(images_BCHW), labels_B).backward()
    return {name: p.grad for name, p in net.named_parameters()}


def distance(ours, exact):
    """The largest relative distance of a parameter's gradient."""
    return max(((ours[name].double() - exact[name]).norm() / exact[name].norm()).item() for name in exact)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_gradient_is_that_of_the_batch(found, exact, world, case):
    for gradients in found[world]:
        assert distance(gradients[case], exact) < (1e-5 if case[-1] == torch.float32 else 0.15)
        for name in exact:
            assert torch.equal(gradients[case][name], found[world][0][case][name]), "workers differ"


@pytest.mark.parametrize("reduce", REDUCE)
def test_gathering_is_as_precise_as_summing_in_bf16(found, exact, reduce):
    gathered, summed = (
        distance(found[2][0][reduce, fc, None, torch.bfloat16], exact) for fc in ("gathered", "all-reduce")
    )
    assert gathered < 1.2 * summed


@pytest.mark.parametrize("case", [case for case in CASES if case[0] == "fixed-order"], ids=str)
def test_fixed_order_gives_the_same_bits_on_any_number_of_workers(found, case):
    for world in (2, 3):
        for name, gradient in found[1][0][case].items():
            assert torch.equal(gradient, found[world][0][case][name]), name


def test_an_overflow_shows_in_the_gradient():
    """A loss scaler finds it there and skips the step."""
    gradients = reduced(0, 1, "fixed-order", "gathered", None, torch.float16, scale=1e9)
    assert not gradients["fc6.weight"].isfinite().all()


class TestGatherLinears:
    def gather(self, net, rows=ROWS):
        return gather_linears(net, Worker(0, 1, 0, CPU, 1), [range(rows)])

    def test_only_where_fewer_numbers_are_sent(self):
        """B (I + O) against 2 I O: 64·768 < 2·131072 and 64·1024 < 2·262144, but 64·522 > 2·5120."""
        net = Net()
        assert self.gather(net) == [net.fc6, net.fc7]
        assert not isinstance(net.fc8, GatheredLinear)
        assert self.gather(Net(), rows=1024) == []

    def test_parameters_and_their_names_stay(self):
        net = Net()
        before = dict(net.named_parameters())
        self.gather(net)
        assert list(before) == [name for name, _ in net.named_parameters()]
        assert all(parameter is before[name] for name, parameter in net.named_parameters())

    def test_frozen_layers_are_left_alone(self):
        net = Net()
        net.fc6.requires_grad_(False)
        assert self.gather(net) == [net.fc7]

    def test_scores_without_gradients_are_the_linear_layers(self):
        net = Net()
        plain = copy.deepcopy(net)
        self.gather(net)
        images_BCHW, _ = batch()
        with torch.no_grad():
            assert torch.equal(net(images_BCHW), plain(images_BCHW))
