"""The Pods and Services that rendered objects lead to, as the controllers and KubeRay 1.7.0 build them.

KubeRay's parts are read off its source, `ray-operator/controllers/ray/`:
- labels of a Ray Pod: `common/pod.go`, `labelPod` (a template may override all but node-type, group and
  cluster);
- /dev/shm: `common/pod.go`, `BuildPod`, `addEmptyDir`; its size is the first container's memory,
  `makeEmptyDirVolume`;
- a worker's init container `wait-gcs-ready`, after the template's own: `common/pod.go`,
  `DefaultWorkerPodTemplate`;
- Ray's start parameters where none are given: `common/pod.go`, `setMissingRayStartParams`;
- probes, where the template has none: `common/pod.go`, `initLivenessAndReadinessProbe` (one page since Ray
  2.53);
- the token's variables: `common/pod.go`, `SetContainerTokenAuthEnvVars`;
- the head's Service: `common/service.go`, `BuildServiceForHeadPod`, `getServicePorts`; headless, so ports
  are the Pod's;
- the submitter: `rayjob_controller.go`, `getSubmitterTemplate`, `configureSubmitterContainer`; the address
  that it and the operator use is the Service's port `dashboard`.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

from tests.k8s.manifests import Object, cluster_spec, label

JOB_CLUSTER = "{}-x1y2z"
"""A RayJob's cluster: its name and a random suffix (`utils.GenerateRayClusterName`)."""
START_PARAMETERS = {
    "port": "6379",
    "dashboard-host": "0.0.0.0",
    "dashboard-port": "8265",
    "ray-client-server-port": "10001",
    "metrics-export-port": "8080",
    "dashboard-agent-listen-port": "52365",
}
HEALTH = {"path": "/api/healthz"}
SERVICE_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}


@dataclass(frozen=True)
class Built:
    """Pods of one kind."""

    where: str
    pod: Object
    count: int
    """How many there are once everything runs; 0 of a suspended cluster."""
    owner: Object
    ray: dict[str, str] | None = None
    """Parameters of `ray start`, of a Ray Pod."""

    @property
    def labels(self) -> dict[str, str]:
        found: dict[str, str] = self.pod["metadata"]["labels"]
        return found

    @property
    def is_worker(self) -> bool:
        """Whether it is a Ray Pod that joins a head."""
        return self.ray is not None and "address" in self.ray

    @property
    def namespace(self) -> str:
        return str(self.pod["metadata"]["namespace"])


def built(objects: list[Object]) -> list[Built]:
    """Every Pod that runs at some time."""
    return [pod for o in objects for pod in _of(o)]


def _of(o: Object) -> Iterator[Built]:
    spec = o.get("spec") or {}
    if o["kind"] in ("Deployment", "StatefulSet", "Job"):
        pod = _pod(o, spec["template"])
        for claim in spec.get("volumeClaimTemplates") or []:
            name = claim["metadata"]["name"]
            source = {"claimName": f"{name}-{o['metadata']['name']}-0"}
            pod["spec"].setdefault("volumes", []).append({"name": name, "persistentVolumeClaim": source})
        yield Built(label(o), pod, spec.get("replicas", spec.get("parallelism", 1)), o)
    elif o["kind"] == "CronJob":
        yield Built(label(o), _pod(o, spec["jobTemplate"]["spec"]["template"]), 1, o)
    elif o["kind"] in ("RayCluster", "RayJob"):
        yield from _ray(o)


def _pod(o: Object, template: Object) -> Object:
    metadata = copy.deepcopy(template.get("metadata") or {})
    metadata["labels"] = metadata.get("labels") or {}
    metadata["namespace"] = o["metadata"].get("namespace", "default")
    return {"metadata": metadata, "spec": copy.deepcopy(template["spec"])}


def cluster_name(o: Object) -> str:
    """Name of the RayCluster that a RayCluster is, or a RayJob makes."""
    name = str(o["metadata"]["name"])
    return name if o["kind"] == "RayCluster" else JOB_CLUSTER.format(name)


def _ray(o: Object) -> Iterator[Built]:
    cluster, name = cluster_spec(o), cluster_name(o)
    running = not (o["spec"].get("suspend") or cluster.get("suspend"))
    groups = [("headgroup", "head", cluster["headGroupSpec"], 1)]
    for group in cluster["workerGroupSpecs"]:
        groups.append((group["groupName"], "worker", group, int(group.get("replicas", 1))))
    for group_name, kind, group, count in groups:
        pod = _pod(o, group["template"])
        fixed = {"ray.io/node-type": kind, "ray.io/group": group_name, "ray.io/cluster": name}
        defaults = {"ray.io/is-ray-node": "yes", "ray.io/identifier": f"{name}-{kind}"}
        defaults |= {
            "app.kubernetes.io/name": "kuberay",
            "app.kubernetes.io/created-by": "kuberay-operator",
        }
        pod["metadata"]["labels"] = {**defaults, **pod["metadata"]["labels"], **fixed}
        parameters = {**START_PARAMETERS, **(group.get("rayStartParams") or {})}
        if kind == "worker":
            parameters = {key: parameters[key] for key in parameters if key not in ("port", "dashboard-port")}
            parameters["address"] = f"{head_host(o)}:{_gcs_port(cluster)}"
        _complete(pod, parameters, kind, cluster)
        where = f"{label(o)} {'head' if kind == 'head' else group_name}"
        yield Built(where, pod, count if running else 0, o, parameters)
    if o["kind"] == "RayJob" and "submitterPodTemplate" in o["spec"]:
        pod = _pod(o, o["spec"]["submitterPodTemplate"])
        pod["metadata"]["labels"] |= {"app.kubernetes.io/created-by": "kuberay-operator"}
        pod["metadata"]["labels"]["ray.io/originated-from-cr-name"] = o["metadata"]["name"]
        first = pod["spec"]["containers"][0]
        address = {"name": "RAY_DASHBOARD_ADDRESS", "value": f"{head_host(o)}:{dashboard_port(o)}"}
        first.setdefault("env", []).extend([address, *_token(cluster)])
        yield Built(f"{label(o)} submitter", pod, 1 if running else 0, o)


def head_host(o: Object) -> str:
    """Name by which workers and the submitter reach the head."""
    return f"{cluster_name(o)}-head-svc.{o['metadata'].get('namespace', 'default')}.svc.cluster.local"


def _gcs_port(cluster: Object) -> str:
    parameters = cluster["headGroupSpec"].get("rayStartParams") or {}
    return str(parameters.get("port", START_PARAMETERS["port"]))


def dashboard_port(o: Object) -> int:
    """The port of the jobs API that the operator and the submitter use: the Service's, by its name."""
    return int(_service_ports(cluster_spec(o)).get("dashboard", 0))


def _service_ports(cluster: Object) -> dict[str, int]:
    first = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    named = {p["name"]: int(p["containerPort"]) for p in first.get("ports") or [] if "name" in p}
    return {"metrics": 8080, **(named or SERVICE_PORTS)}


def _token(cluster: Object) -> list[Object]:
    options = cluster.get("authOptions") or {}
    if options.get("mode") != "token":
        return []
    reference = {"name": options.get("secretName"), "key": "auth_token"}
    return [
        {"name": "RAY_AUTH_MODE", "value": "token"},
        {"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": reference}},
    ]


def _complete(pod: Object, parameters: dict[str, str], kind: str, cluster: Object) -> None:
    """Add what KubeRay adds to a Ray Pod's spec."""
    spec = pod["spec"]
    first = spec["containers"][0]
    if kind == "worker":
        small = {"cpu": "200m", "memory": "256Mi"}
        waits = {key: copy.deepcopy(first[key]) for key in ("image", "env", "volumeMounts") if key in first}
        waits |= {"name": "wait-gcs-ready", "resources": {"requests": small, "limits": small}}
        waits |= {"securityContext": first.get("securityContext")}
        waits["args"] = [f"ray health-check --address {parameters['address']}"]
        spec["initContainers"] = [*(spec.get("initContainers") or []), waits]
    memory = (first.get("resources") or {}).get("limits", {}).get("memory")
    spec.setdefault("volumes", []).append(
        {"name": "shared-mem", "emptyDir": {"medium": "Memory", "sizeLimit": memory}}
    )
    first.setdefault("volumeMounts", []).append({"name": "shared-mem", "mountPath": "/dev/shm"})
    probe = {"httpGet": {**HEALTH, "port": int(parameters["dashboard-agent-listen-port"])}}
    for each in ("livenessProbe", "readinessProbe"):
        first.setdefault(each, {**copy.deepcopy(probe), "periodSeconds": 5, "failureThreshold": 120})
    first.setdefault("env", []).extend(_token(cluster))


def services(objects: list[Object]) -> list[Object]:
    """The rendered Services and those that KubeRay makes for heads."""
    made = [o for o in objects if o["kind"] == "Service"]
    for o in objects:
        if o["kind"] not in ("RayCluster", "RayJob"):
            continue
        name = cluster_name(o)
        selector = {"ray.io/cluster": name, "ray.io/node-type": "head", "ray.io/identifier": f"{name}-head"}
        selector |= {
            "app.kubernetes.io/name": "kuberay",
            "app.kubernetes.io/created-by": "kuberay-operator",
        }
        ports = [{"name": key, "port": port} for key, port in _service_ports(cluster_spec(o)).items()]
        metadata = {"name": f"{name}-head-svc", "namespace": o["metadata"].get("namespace", "default")}
        spec = {"clusterIP": "None", "selector": selector, "ports": ports}
        made.append({"kind": "Service", "metadata": metadata, "spec": spec})
    return made
