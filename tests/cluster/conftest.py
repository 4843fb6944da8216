"""The shared cluster, as this process uses it."""

import pytest
import ray


@pytest.fixture
def connected(ray_cluster):
    """This process is connected to it."""
    ray.shutdown()
    ray.init(address=ray_cluster.head.address, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def cluster(ray_cluster, monkeypatch):
    """It is the one that this process is to connect to by itself."""
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.head.address)
    ray.shutdown()
    yield ray_cluster
    ray.shutdown()
