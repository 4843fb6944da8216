"""docs/kubernetes.md against the rendered objects: every command names a folder or an object that is there."""

import re

import pytest

from tests.conftest import ROOT
from tests.k8s import access, checks
from tests.k8s.built import services
from tests.k8s.conftest import BROUGHT, needs_kustomize
from tests.k8s.manifests import K8S, TARGETS, rendered
from tests.k8s.programs import World

DOCUMENT = (ROOT / "docs/kubernetes.md").read_text()
README = (ROOT / "README.md").read_text()
KINDS = {
    "statefulset": "StatefulSet",
    "deployment": "Deployment",
    "job": "Job",
    "raycluster": "RayCluster",
    "rayjob": "RayJob",
    "svc": "Service",
    "pod": "Pod",
    "secret": "Secret",
}
PLACEHOLDER = re.compile(r"[A-Z…$*]")
"""In a name: something that the reader fills in."""


@pytest.fixture(scope="module")
def there(made_secrets):
    """(namespace, kind, name) of everything in the cluster after the document's commands."""
    objects = [o for target in TARGETS for o in rendered(target)]
    found = {(o["metadata"].get("namespace", ""), o["kind"], o["metadata"]["name"]) for o in objects}
    for o in objects:  # what the controllers make of them
        space, name = o["metadata"].get("namespace", ""), o["metadata"]["name"]
        if o["kind"] == "StatefulSet":
            found.add((space, "Pod", f"{name}-0"))
        if o["kind"] == "RayJob":
            found.add((space, "Job", name))  # its submitter
    found |= {(s["metadata"]["namespace"], "Service", s["metadata"]["name"]) for s in services(objects)}
    found |= {(space, "Secret", name) for space, name in checks.secret_values(made_secrets)}
    return found | {("kuberay-operator", "Deployment", "kuberay-operator")}


@needs_kustomize
def test_objects_are_there(there):
    """`kubectl -n NAMESPACE … KIND/NAME` and `… KIND NAME`."""
    seen = 0
    for command in re.findall(r"kubectl -n \S+ [^`\n]+", DOCUMENT):
        space = command.split()[2]
        for kind, name in re.findall(rf"\b({'|'.join(KINDS)})[/ ]([\w.-]+[^\s`;)]*)", command):
            if PLACEHOLDER.search(name) or name.startswith("-") or name.isdigit():
                continue
            seen += 1
            assert (space, KINDS[kind], name) in there, command
    assert seen > 15


@pytest.mark.parametrize("text", [DOCUMENT, README], ids=["docs/kubernetes.md", "README.md"])
def test_folders_and_scripts_are_there(text):
    folders = [f for f in re.findall(r"-k (k8s/[\w./-]+)", text) if not f.endswith("/")]
    assert folders
    for folder in folders:
        assert (ROOT / folder / "kustomization.yaml").is_file(), folder
    for script in re.findall(r"bash (k8s/[\w-]+\.sh)", text):
        assert (ROOT / script).is_file(), script
    for path in re.findall(r"`(k8s/[\w./-]+\w)`", text):
        assert (ROOT / path).exists(), path


def test_components_are_there():
    table = re.search(r"\| component \|.*?\n\n", DOCUMENT, re.DOTALL)
    assert table
    named = set(
        re.findall(r"`([a-z-]+)`", "".join(row.split("|")[1] for row in table[0].splitlines()[2:] if row))
    )
    there = {folder.name for folder in (K8S / "components").iterdir()}
    assert named == there - {"gpu-node"}  # which the overlays have


@needs_kustomize
@pytest.mark.parametrize(
    ("verb", "what", "space", "name"),
    [
        ("create", "ray.io:rayjobs", "vgg", ""),
        ("get", "pods/log", "vgg", ""),
        ("create", "pods/portforward", "vgg-services", "mlflow-0"),
        ("get", "secrets", "vgg", "mlflow-login"),
    ],
)
def test_researcher_may_do_what_is_written(verb, what, space, name):
    world = World([*rendered("gpu"), BROUGHT], {})
    assert access.may(world, ("Group", "vgg-researchers"), verb, what, space, name)
    assert not access.may(world, ("Group", "vgg-researchers"), verb, what, "kube-system", name)
