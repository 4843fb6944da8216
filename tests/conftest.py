"""Fixtures shared by the suite."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local import LocalCluster

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data sets, which live beside the project and are never part of it."""
    folder = Path(os.environ.get("VGG_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data is absent: no folder {folder} (set VGG_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[LocalCluster]:
    """A real one-node cluster that all distributed tests share: worker start-up is what they wait for."""
    with LocalCluster(cpus=4) as cluster:
        yield cluster
