"""Fixtures of the Kubernetes tests."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.k8s import checks
from tests.k8s.manifests import K8S, Object, load, rendered

BROUGHT = {"kind": "PersistentVolumeClaim", "metadata": {"name": "source", "namespace": "vgg"}}
"""The archives that are packed lie on a claim of the platform's own."""

needs_kustomize = pytest.mark.skipif(
    shutil.which("kubectl") is None and shutil.which("kustomize") is None,
    reason="manifests are rendered with kubectl 1.29 or newer, or kustomize 5.x: neither is installed",
)


@pytest.fixture(scope="session")
def kuberay_schemas() -> Path | None:
    """Folder of KubeRay's schemas, or None where they are absent."""
    shared = Path(os.environ.get("VGG_SHARED_DATA", ROOT.parent / "shared" / "data"))
    return shared / "kuberay-1.7.0" if (shared / "kuberay-1.7.0").is_dir() else None


@pytest.fixture(scope="session")
def made_secrets() -> str:
    """What k8s/secrets.sh makes."""
    script = ["bash", str(K8S / "secrets.sh")]
    return subprocess.run(script, capture_output=True, text=True, check=True, timeout=30).stdout


@pytest.fixture(scope="session")
def managed_secrets() -> str:
    """What a platform with its own database and store has to bring."""
    return (K8S / "overlays/paper/secrets.example.yaml").read_text()


def environment(target: str) -> Object:
    """The nodes, storage classes and outside addresses that an overlay, or a folder of it, is for."""
    places = (K8S / "overlays" / target, K8S / "overlays" / target.partition("/")[0])
    (found,) = load(next(p for p in places if (p / "nodes.yaml").exists()).joinpath("nodes.yaml").read_text())
    return found


@pytest.fixture(scope="session")
def findings(kuberay_schemas, made_secrets, managed_secrets):
    """All findings on an overlay's objects, changed or not."""

    def check(target, objects, outside=None, replace=None):
        overlay, _, beside = target.partition("/")
        if outside is None:
            outside = [*rendered(overlay), BROUGHT] if beside else []
        secrets = managed_secrets if overlay == "paper" else made_secrets
        for old, new in (replace or {}).items():
            assert old in secrets, old
            secrets = secrets.replace(old, new)
        values = checks.secret_values(secrets)
        return checks.problems(objects, outside, values, kuberay_schemas, environment(target))

    return check
