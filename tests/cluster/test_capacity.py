"""When a cluster has room for the workers of a job."""

import time

import pytest
import ray

from cli.errors import UserError
from cluster.capacity import Capacity, wait_for_room
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


@pytest.fixture
def connected(ray_cluster):
    ray.init(address=ray_cluster.head.address, log_to_driver=False)
    yield
    ray.shutdown()


def test_room_on_a_real_cluster(connected):
    assert wait_for_room(Layout(workers=2, cpus_per_worker=2)) == {"CPU": 2}
    began = time.monotonic()
    with pytest.raises(UserError, match=r"--layout.workers 3 .* have 4 CPU .* room for 2\."):
        wait_for_room(Layout(workers=3, cpus_per_worker=2, wait_seconds=1))
    assert time.monotonic() - began >= 1
