"""When a cluster has room for the workers of a job."""

import time

import pytest

from cli.errors import UserError
from cluster.capacity import Capacity, resources_per_worker, wait_for_room
from cluster.layout import Layout


@pytest.mark.parametrize(
    ("nodes", "free_cpus", "fit", "suffices"),
    [
        ([4], 4, 2, True),
        ([4], 3, 2, False),  # another job holds a core
        ([3, 1], 4, 1, False),  # no worker spans two nodes
        ([2, 2], 4, 2, True),
        ([], 0, 0, False),
    ],
)
def test_workers_of_two_cores(nodes, free_cpus, fit, suffices):
    capacity = Capacity(2, {"CPU": 2}, [{"CPU": cpus} for cpus in nodes], {"CPU": free_cpus})
    assert capacity.workers_that_fit() == fit
    assert capacity.suffices() is suffices


def test_a_gpu_worker_needs_both_on_one_node():
    capacity = Capacity(1, {"CPU": 1, "GPU": 1}, [{"CPU": 8}, {"GPU": 1}], {"CPU": 8, "GPU": 1})
    assert capacity.workers_that_fit() == 0
    assert not capacity.suffices()


@pytest.mark.parametrize(
    ("device", "gpus", "on_gpus"),
    [
        ("auto", [], False),
        ("auto", [0, 0], False),
        ("auto", [4], True),
        ("auto", [0, 1], True),  # too few for two workers: waited for, not replaced by CPUs
        ("cpu", [4], False),
        ("gpu", [0], True),
    ],
)
def test_workers_are_on_gpus_where_there_are_any(device, gpus, on_gpus):
    nodes = [{"CPU": 8.0, "GPU": float(count)} for count in gpus]
    found = resources_per_worker(Layout(workers=2, device=device, cpus_per_worker=3), nodes)
    assert found == ({"CPU": 3, "GPU": 1} if on_gpus else {"CPU": 3})


@pytest.mark.parametrize(
    ("device", "nodes", "cores"),
    [
        ("cpu", [(16, 4)], 1),
        ("auto", [(16, 0)], 1),
        ("auto", [(16, 4)], 4),
        ("auto", [(2, 4)], 1),
        ("auto", [(64, 0), (90, 8), (16, 1)], 11),  # what fits on each node that has GPUs
        ("gpu", [(16, 0)], 1),  # nodes with GPUs are still to join
    ],
)
def test_cores_of_a_worker_that_were_not_asked_for(device, nodes, cores):
    resources = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    assert resources_per_worker(Layout(device=device), resources)["CPU"] == cores


def test_room_on_a_real_cluster(connected, capsys):
    assert wait_for_room(Layout(workers=2, cpus_per_worker=2)) == {"CPU": 2}
    assert "--layout.device auto: on CPUs" in capsys.readouterr().out
    began = time.monotonic()
    with pytest.raises(UserError, match=r"--layout.workers 3 .* have 4 CPU .* room for 2\."):
        wait_for_room(Layout(workers=3, cpus_per_worker=2, wait_seconds=1))
    assert time.monotonic() - began >= 1
