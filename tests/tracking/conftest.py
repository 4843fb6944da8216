"""Fixtures of the tracking tests."""

import pytest

from vgg.tracking.run_info import RunInfo


@pytest.fixture
def server(mlflow_server):
    return mlflow_server


@pytest.fixture
def info(request):
    return RunInfo(
        uid=f"uid-{request.node.name}",
        experiment="tests",
        name="a run",
        tags={"kind": "train", "recipe": "digits"},
        params={"optim.lr": "0.01", "long": "x" * 10_000},
        data_name="digits",
        data_digest="d" * 64,
        data_source="/data/digits",
        data_context="training",
        started=1_700_000_000_000,
    )
