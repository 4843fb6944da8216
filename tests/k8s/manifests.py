"""Rendered manifests: kustomize's output as objects, and the Pods that lie inside them."""

import copy
import shutil
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT

K8S = ROOT / "k8s"
OVERLAYS = ("local-cpu", "gpu", "paper")
BESIDE = ("job", "evaluate", "ensemble", "report", "study")
TARGETS = (
    *OVERLAYS,
    *(f"{overlay}/{beside}" for overlay in OVERLAYS for beside in BESIDE),
    "gpu/pack",
    "paper/pack",
    "paper/spot",
)
"""Every kustomization that somebody applies: the platform's, and the researcher's beside it."""

Object = dict[str, Any]


class StrictLoader(yaml.SafeLoader):
    """YAML as a server in strict mode reads it: a key given twice is an error, not the last one's win."""


def _mapping(loader: StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} twice", key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# The default would take `=` for a type of its own and dates for dates.
StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":value"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(text: str) -> list[Any]:
    """Every document of a YAML text; yaml.YAMLError where a key is given twice."""
    return [document for document in yaml.load_all(text, StrictLoader) if document]


def kustomize(folder: Path) -> str:
    """What `kubectl apply -k` would send. RuntimeError with kustomize's words where it refuses."""
    command = ["kubectl", "kustomize", str(folder)]
    if shutil.which("kubectl") is None:
        command = ["kustomize", "build", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{folder}: {done.stderr}")
    return done.stdout


@lru_cache
def _rendered(target: str) -> str:
    return kustomize(K8S / "overlays" / target)


def rendered(target: str) -> list[Object]:
    """The objects of an overlay; rendered once a session, the caller's own copy."""
    return load(_rendered(target))


def find(objects: list[Object], kind: str, name: str | None = None) -> Object:
    """The one object of this kind (and name, in which * stands for a hash)."""
    found = [o for o in objects if o["kind"] == kind and fnmatchcase(o["metadata"]["name"], name or "*")]
    assert len(found) == 1, f"{len(found)} objects of kind {kind} and name {name}"
    return found[0]


def find_in(objects: list[Object], kind: str, namespace: str, name: str | None) -> Object | None:
    """The object of this kind, namespace and name, if it is there."""
    for o in objects:
        metadata = o.get("metadata") or {}
        if (o["kind"], metadata.get("namespace", namespace), metadata.get("name")) == (kind, namespace, name):
            return o
    return None


def image_name(image: str) -> str:
    """Last part of an image's name, without registry, tag and digest."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def label(o: Object) -> str:
    """Kind and name, for messages."""
    return f"{o.get('kind')}/{o.get('metadata', {}).get('name')}"


def cluster_spec(o: Object) -> Object:
    """The RayCluster's spec of a RayCluster or RayJob."""
    spec: Object = o["spec"] if o["kind"] == "RayCluster" else o["spec"].get("rayClusterSpec") or {}
    return spec


def templates(o: Object) -> Iterator[tuple[str, Object, dict[str, str]]]:
    """Each Pod template of an object, with its name and the labels that its controller adds."""
    spec = o.get("spec") or {}
    if o["kind"] in ("Deployment", "StatefulSet", "Job"):
        yield label(o), spec["template"], {}
    if o["kind"] == "CronJob":
        yield label(o), spec["jobTemplate"]["spec"]["template"], {}
    if o["kind"] not in ("RayCluster", "RayJob"):
        return
    name = o["metadata"]["name"] if o["kind"] == "RayCluster" else f"{o['metadata']['name']}-x1y2z"
    ray = {"ray.io/is-ray-node": "yes", "ray.io/cluster": name}
    cluster = cluster_spec(o)
    head = cluster.get("headGroupSpec") or {}
    yield f"{label(o)} head", head.get("template") or {}, {**ray, "ray.io/node-type": "head"}
    for group in cluster.get("workerGroupSpecs") or []:
        labels = {**ray, "ray.io/node-type": "worker"}
        yield f"{label(o)} {group.get('groupName')}", group.get("template") or {}, labels
    if "submitterPodTemplate" in spec:
        yield f"{label(o)} submitter", spec["submitterPodTemplate"], {}


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Every Pod that these objects lead to, as KubeRay or the controllers would name and label it."""
    for o in objects:
        for where, template, added in templates(o):
            metadata = copy.deepcopy(template.get("metadata") or {})
            metadata["labels"] = {**(metadata.get("labels") or {}), **added}
            metadata |= {"name": "pod", "namespace": o["metadata"].get("namespace", "default")}
            spec = copy.deepcopy(template.get("spec") or {})
            # A StatefulSet adds a volume for each of its claims.
            for claim in (o["spec"].get("volumeClaimTemplates") or []) if o["kind"] == "StatefulSet" else []:
                name = claim["metadata"]["name"]
                source = {"claimName": f"{name}-{o['metadata']['name']}-0"}
                spec.setdefault("volumes", []).append({"name": name, "persistentVolumeClaim": source})
            yield where, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def containers(pod: Object) -> Iterator[Object]:
    """Init containers and containers of a Pod."""
    spec = pod["spec"]
    yield from spec.get("initContainers") or []
    yield from spec.get("containers") or []
