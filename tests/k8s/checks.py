"""Everything that is asked of a set of rendered manifests. Each check returns its findings as sentences.

What they cannot see is a kubelet, a scheduler or the operator at work: docs/kubernetes.md says so.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import kubernetes_validate

from tests.k8s import (
    access,
    conversations,
    disruption,
    endings,
    isolation,
    kuberay,
    lifecycle,
    logins,
    placement,
    volumes,
)
from tests.k8s.built import built
from tests.k8s.manifests import Object, cluster_spec, containers, find_in, label, load, pods, templates
from tests.k8s.pod import habits, pod_security, quantity, references
from tests.k8s.policies import matches
from tests.k8s.programs import World

KUBERNETES = "1.32"  # the oldest that docs/kubernetes.md names
CUSTOM = {
    ("ray.io/v1", "RayCluster"),
    ("ray.io/v1", "RayJob"),
    ("kueue.x-k8s.io/v1beta2", "ResourceFlavor"),
    ("kueue.x-k8s.io/v1beta2", "ClusterQueue"),
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"),
    ("kueue.x-k8s.io/v1beta2", "WorkloadPriorityClass"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
}
CLUSTER_WIDE = ("Namespace", "PriorityClass", "ResourceFlavor", "ClusterQueue", "WorkloadPriorityClass")
NAMESPACES = ("vgg", "vgg-services")
CLOSED_PORTS = {6379, 8265, 10001}
"""Of a Ray head: GCS, dashboard with jobs API, client. Each runs what it is sent."""
DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def problems(
    objects: list[Object],
    outside: list[Object],
    secrets: dict[tuple[str, str], dict[str, str]],
    schemas: Path | None,
    environment: Object,
) -> list[str]:
    """Every finding on `objects`.

    `outside`: what is already in the cluster when they are applied. `secrets`: (namespace, name) -> key ->
    value. `environment`: the overlay's nodes.yaml.
    """
    found = [*_identity(objects), *_builtin_schemas(objects), *_volumes_kept(objects)]
    if found:
        return found  # the rest expects objects of the right form
    everything = [*objects, *outside]
    for o in objects:
        if o["kind"] in ("RayCluster", "RayJob"):
            found += [f"{label(o)}: {text}" for text in kuberay.rule_problems(o)]
            if schemas is not None:
                found += [f"{label(o)}: {text}" for text in kuberay.schema_problems(o, schemas)]
            found += _ray(o)
    for where, pod in pods(objects):
        found += [f"{where}: {text}" for text in _validated(json.dumps(pod, sort_keys=True))]
        found += [f"{where}: {text}" for text in pod_security(pod)]
        found += [f"{where}: {text}" for text in habits(pod)]
        found += [f"{where}: {text}" for text in references(pod, everything, secrets)]
    found += _selectors(objects, everything)
    return [*found, *_whole(objects, everything, secrets, environment)]


def _whole(
    objects: list[Object],
    everything: list[Object],
    secrets: dict[tuple[str, str], dict[str, str]],
    environment: Object,
) -> Iterator[str]:
    """What all objects together must do."""
    world = World([o for o in everything if o.get("apiVersion")], secrets)
    names = environment.get("outside") or {}
    yield from conversations.problems(world, names)
    yield from isolation.problems(world, names)
    yield from access.problems(world)
    yield from logins.problems(world)
    yield from lifecycle.problems(world)
    yield from disruption.problems(world)
    yield from endings.problems(world)
    yield from volumes.problems(world)
    yield from _ranks(objects)
    for o in objects:
        if o["kind"] == "RayJob":
            yield from lifecycle.layout_problems(o)
    everybody = built(world.objects)
    yield from placement.problems(everybody, world.objects, environment)
    yield from placement.quota_problems(everybody, world.objects)


def _identity(objects: list[Object]) -> Iterator[str]:
    seen = set()
    for o in objects:
        key = (o.get("apiVersion"), label(o), (o.get("metadata") or {}).get("namespace"))
        if key in seen:
            yield f"{label(o)} is there twice"
        seen.add(key)
        if not DNS_1123.fullmatch((o.get("metadata") or {}).get("name") or ""):
            yield f"{label(o)}: not a name"
        labels = (o.get("metadata") or {}).get("labels") or {}
        if o.get("kind") == "Namespace" and labels.get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{label(o)}: pod-security.kubernetes.io/enforce is not restricted"
        if o.get("kind") not in CLUSTER_WIDE and o["metadata"].get("namespace") not in NAMESPACES:
            yield f"{label(o)} is not in namespace vgg or vgg-services"


@cache
def _validated(text: str) -> tuple[str, ...]:
    """kubernetes-validate, strictly, on an object given as JSON. It skips unknown kinds; this does not."""
    o = json.loads(text)
    if (o.get("apiVersion"), o.get("kind")) in CUSTOM:
        return ()
    try:
        kubernetes_validate.validate(o, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return (f"{'.'.join(map(str, error.path))}: {error.message[:300]}",)
    except kubernetes_validate.SchemaNotFoundError as error:
        return (error.message,)
    return ()


def _builtin_schemas(objects: list[Object]) -> Iterator[str]:
    for o in objects:
        for text in _validated(json.dumps(o, sort_keys=True)):
            yield f"{label(o)}: {text}"


def _volumes_kept(objects: list[Object]) -> Iterator[str]:
    for o in objects:
        for where, template, _ in templates(o):
            if not (template.get("spec") or {}).get("containers"):
                yield f"{where}: no containers"


def _ray(o: Object) -> Iterator[str]:
    """What this project asks of each of its Ray clusters beyond KubeRay's rules."""
    spec = cluster_spec(o)
    locked = Path(__file__).parents[2] / "requirements.lock"
    version = re.search(r"^ray==(.+)$", locked.read_text(), re.MULTILINE)
    assert version
    if spec.get("rayVersion") != version[1]:
        yield f"{label(o)}: rayVersion {spec.get('rayVersion')} is not the locked {version[1]}"
    if spec.get("authOptions", {}).get("secretName") != "ray-token":
        yield f"{label(o)}: the token is not that of Secret ray-token"
    head = spec["headGroupSpec"]
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        yield f"{label(o)}: workers may be placed on the head"
    if head.get("serviceType", "ClusterIP") != "ClusterIP" or head.get("enableIngress"):
        yield f"{label(o)}: headGroupSpec.serviceType or enableIngress exposes the head outside the cluster"
    ports = {p["containerPort"] for p in head["template"]["spec"]["containers"][0].get("ports") or []}
    if not ports >= CLOSED_PORTS:
        yield f"{label(o)}: the head does not name ports {CLOSED_PORTS - ports}"
    images = {c.get("image") for _, template, _ in templates(o) for c in containers(template)}
    if len(images) != 1:
        yield f"{label(o)}: head, workers and submitter are of different images: {images}"
    fewest, most = disruption.workers_of(str(o["spec"].get("entrypoint", "")))
    for group in spec["workerGroupSpecs"]:
        counts = {group.get(key) for key in ("minReplicas", "replicas", "maxReplicas")}
        if fewest == most and len(counts) != 1:
            yield f"{label(o)}: a training takes a fixed number of workers, not {counts}"
    for group in [head, *spec["workerGroupSpecs"]]:
        limits = group["template"]["spec"]["containers"][0].get("resources", {}).get("limits") or {}
        told, has = (group.get("rayStartParams") or {}).get("num-gpus"), limits.get("nvidia.com/gpu", 0)
        if told is not None and int(told) != quantity(has):
            yield f"{label(o)}: rayStartParams num-gpus is {told}, the Pod has {has}"
    for where, template, _ in templates(o):
        first = template["spec"]["containers"][0]
        if "submitter" in where:
            continue
        if {"configMapRef": {"name": "ray"}} not in (first.get("envFrom") or []):
            yield f"{where}: the addresses of ConfigMap ray are lost"
        wanted = {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "AWS_ACCESS_KEY_ID", "HOME"}
        lost = wanted - {each["name"] for each in first.get("env") or []}
        if lost:
            yield f"{where}: lost from env: {sorted(lost)}"
        mounts = {mount["mountPath"] for mount in first.get("volumeMounts") or []}
        if not {"/tmp", "/data"} <= mounts:
            yield f"{where}: lost mounts, has {sorted(mounts)}"


def _ranks(objects: list[Object]) -> Iterator[str]:
    """Servers rank above trainings, and trainings never displace each other."""
    ranks = {o["metadata"]["name"]: o for o in objects if o["kind"] == "PriorityClass"}
    if not ranks:
        return
    servers, trainings = ranks.get("vgg-services", {}), ranks.get("vgg-training", {})
    if not servers.get("value", 0) > trainings.get("value", 0) >= 0:
        yield "PriorityClass/vgg-training: its value is not below that of vgg-services"
    if trainings.get("preemptionPolicy") != "Never":
        yield "PriorityClass/vgg-training: preemptionPolicy is not Never: trainings displace each other"
    for name, o in ranks.items():
        if o.get("globalDefault"):
            yield f"PriorityClass/{name}: globalDefault ranks every Pod of the cluster"
    for where, pod in pods(objects):
        wanted = "vgg-training" if pod["metadata"]["namespace"] == "vgg" else "vgg-services"
        if pod["spec"].get("priorityClassName") != wanted:
            yield f"{where}: priorityClassName {pod['spec'].get('priorityClassName')} is not {wanted}"


def _selectors(objects: list[Object], everything: list[Object]) -> Iterator[str]:
    """Selectors that select nothing, and Services whose port no container has."""
    for o in objects:
        spec = o.get("spec") or {}
        if o["kind"] == "Service" and not conversations.backends(o, built(everything)):
            yield f"{label(o)} selects no Pod: spec.selector {spec.get('selector')}"
        if o["kind"] == "StatefulSet":
            name = spec.get("serviceName")
            if find_in(everything, "Service", o["metadata"]["namespace"], name) is None:
                yield f"{label(o)}: serviceName {name} is no Service of its namespace"
        if o["kind"] in ("Deployment", "StatefulSet"):
            labels = spec["template"]["metadata"]["labels"]
            if not matches(spec["selector"], labels):
                yield f"{label(o)} does not select its own Pods"


def secret_values(text: str) -> dict[tuple[str, str], dict[str, str]]:
    """(namespace, name) -> key -> value of the Secrets in a YAML text."""
    return {(o["metadata"]["namespace"], o["metadata"]["name"]): o["stringData"] for o in load(text)}
