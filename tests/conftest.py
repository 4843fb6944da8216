"""Fixtures shared by the suite."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import settings

from cluster.access import VARIABLES, use_in_this_process
from cluster.local import LocalCluster
from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from tests.mlflow_server import MLflowServer
from tests.object_store import KEYS, ObjectStore

ROOT = Path(__file__).resolve().parent.parent
for variable in [name for name in os.environ if name in VARIABLES]:
    del os.environ[variable]  # of the cluster that whoever runs the tests works with
needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None,
    reason="network namespaces need root and iproute2",
)


settings.register_profile("untimed", deadline=None)  # a busy machine pauses any example
settings.load_profile("untimed")

LONGEST = ("test_tracking.py", "test_train.py", "test_evaluate.py", "test_token.py")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: of two processes none is left alone with one at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data sets, which live beside the project and are never part of it."""
    folder = Path(os.environ.get("VGG_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data is absent: no folder {folder} (set VGG_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[LocalCluster]:
    """A real one-node cluster that all distributed tests share: worker start-up is what they wait for.

    This process uses its token from then on.
    """
    with LocalCluster(cpus=4) as cluster:
        access = cluster.head.access()
        use_in_this_process({name: access[name] for name in VARIABLES if name in access})
        yield cluster


@pytest.fixture(scope="module", autouse=True)
def leaves_the_cluster() -> Iterator[None]:
    """A file's process is in no cluster when its tests have ended: the next file's would train there, whatever
    address they give."""
    yield
    if (ray := sys.modules.get("ray")) is not None and ray.is_initialized():
        ray.shutdown()
        pytest.fail("a test of this file has joined a cluster and not left it (ray.shutdown())")


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory) -> Iterator[MLflowServer]:
    """A real MLflow server; a test that kills it starts it again."""
    with MLflowServer(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture(scope="session")
def vgg11(tmp_path_factory) -> tuple[torch.nn.Module, Path]:
    """torchvision's vgg11 for seven classes at random weights that tell images apart, and its file."""
    torch.manual_seed(0)
    net = torchvision.models.vgg11(num_classes=7).eval()
    with torch.no_grad():
        net.classifier[-1].weight.mul_(30)
    file = tmp_path_factory.mktemp("weights") / "vgg11.pth"
    torch.save(net.state_dict(), file)
    return net, file


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """The embedded digits, packed."""
    folder = tmp_path_factory.mktemp("packed") / "digits"
    pack(PackOptions("digits", folder, workers=1))
    return folder


@pytest.fixture(scope="session")
def _object_store(tmp_path_factory) -> Iterator[ObjectStore]:
    with ObjectStore(tmp_path_factory.mktemp("s3")) as store:
        yield store


@pytest.fixture
def object_store(_object_store, monkeypatch) -> ObjectStore:
    """A real S3 server that tests share: each keeps to a folder of its own."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return _object_store


@pytest.fixture(scope="session")
def boxed(tmp_path_factory) -> Path:
    """A made data set with boxes, packed."""
    from tests.boxes import made

    return made.make(tmp_path_factory.mktemp("boxed"), {"train": 70, "val": 21})


@pytest.fixture(scope="session")
def classifier(boxed, tmp_path_factory) -> Path:
    """A run of a classifier on it."""
    from tests.boxes import made

    return made.train_alone("digits", boxed, tmp_path_factory.mktemp("classifier"), made.classifier_recipe(4))


@pytest.fixture(scope="session")
def workers():
    """Processes for trainings on several workers, which all tests share: they import for seconds."""
    from tests.processes import Workers

    with Workers() as started:
        yield started
