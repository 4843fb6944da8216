"""The checks can fail: each mistake of mutants.yaml, made in a rendered overlay, is found for what it is."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.k8s.conftest import needs_kustomize
from tests.k8s.manifests import K8S, Object, find, kustomize, load, rendered

(MUTANTS,) = load((Path(__file__).parent / "mutants.yaml").read_text())


def apply(objects: list[Object], edit: Object) -> None:
    """One JSON6902 operation on one object."""
    kind, _, name = edit["object"].partition("/")
    namespace, _, name = name.rpartition("/")
    o = find([o for o in objects if namespace in ("", o["metadata"].get("namespace"))], kind, name or None)
    parent, key = _locate(o, edit["path"])
    if edit["op"] == "move":
        source, old = _locate(o, edit["from"])
        parent[key] = source.pop(old)
    elif edit["op"] == "remove":
        parent.pop(key)
    elif key == "-":
        parent.append(edit["value"])
    else:
        assert (key in parent if isinstance(parent, dict) else True) == (edit["op"] == "replace"), edit
        parent[key] = edit["value"]


def _locate(o: Object, path: str) -> tuple[Any, Any]:
    *way, last = (step.replace("~1", "/") for step in path.split("/")[1:])
    here: Any = o
    for step in way:
        here = here[int(step)] if isinstance(here, list) else here[step]
    return here, int(last) if isinstance(here, list) and last != "-" else last


@needs_kustomize
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant["name"].replace(" ", "-"))
def test_mutant_is_found(mutant, findings, kuberay_schemas):
    if mutant.get("schema") and kuberay_schemas is None:
        pytest.skip("KubeRay's schemas are absent: ../shared/data/kuberay-1.7.0 (set VGG_SHARED_DATA)")
    objects = rendered(mutant["in"])
    for edit in mutant.get("edits", ()):
        apply(objects, edit)
    target = mutant["in"]
    if "with" in mutant:  # what is applied beside it
        target, objects, outside = mutant["with"], rendered(mutant["with"]), objects
    else:
        outside = None
    listed = findings(target, objects, outside, replace=mutant.get("secrets"))
    assert any(re.search(mutant["found"], finding) for finding in listed), listed


def test_enough_mutants():
    assert len({mutant["name"] for mutant in MUTANTS}) == len(MUTANTS) >= 25
    said = re.search(r"each of (\d+) deliberate mistakes", (ROOT / "docs/kubernetes.md").read_text())
    assert said
    assert int(said[1]) == len(MUTANTS)


@needs_kustomize
def test_strategic_merge_is_found(tmp_path, findings):
    """The trap itself: this patch renders without a word, and takes image, env and volumes from the workers."""
    k8s = tmp_path / "k8s"
    shutil.copytree(K8S, k8s)
    file = k8s / "overlays/gpu/ray/kustomization.yaml"
    patch = """
patches:
- patch: |-
    apiVersion: ray.io/v1
    kind: RayCluster
    metadata: {name: vgg}
    spec:
      workerGroupSpecs:
      - groupName: workers
        template: {spec: {containers: [{name: ray-worker, resources: {limits: {memory: 256Gi}}}]}}
"""
    file.write_text(file.read_text() + patch)
    listed = findings("gpu", load(kustomize(file.parent.parent)))
    for lost in ("lost from env", "lost mounts", "has no version", "needs minReplicas"):
        assert any(lost in finding for finding in listed), (lost, listed)
