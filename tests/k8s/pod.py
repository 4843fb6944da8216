"""What is asked of every single Pod: PodSecurity, habits, and that all it refers to is there."""

import re
from collections.abc import Iterator

from tests.k8s.manifests import Object, containers

UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "": 1.0}


def pod_security(pod: Object) -> Iterator[str]:
    """What PodSecurity's `restricted` forbids, and a writable root, on top of that."""
    spec = pod["spec"]
    whole = spec.get("securityContext") or {}
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is on"
    for volume in spec.get("volumes") or []:
        allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"}
        kinds = set(volume) - {"name"}
        if not kinds <= allowed | {"projected", "secret"}:
            yield f"volume {volume['name']} is of a forbidden kind: {kinds}"
    for container in containers(pod):
        own = container.get("securityContext") or {}
        both = {**whole, **own}
        name = container["name"]
        capabilities = own.get("capabilities") or {}
        rules = [
            (both.get("runAsNonRoot") is True, "runAsNonRoot is not set"),
            (both.get("runAsUser", 0) > 0, "runs as root"),
            (both.get("seccompProfile", {}).get("type") == "RuntimeDefault", "no seccomp profile"),
            (own.get("allowPrivilegeEscalation") is False, "allows privilege escalation"),
            (not own.get("privileged"), "is privileged"),
            (capabilities.get("drop") == ["ALL"], "keeps capabilities"),
            (set(capabilities.get("add") or ()) <= {"NET_BIND_SERVICE"}, "adds capabilities"),
            (own.get("readOnlyRootFilesystem") is True, "has a writable root"),
            (not any(port.get("hostPort") for port in container.get("ports") or []), "takes a host port"),
        ]
        yield from (f"{name} {text}" for good, text in rules if not good)


def habits(pod: Object) -> Iterator[str]:
    spec = pod["spec"]
    if spec.get("enableServiceLinks") is not False:
        yield "service links are on: MLFLOW_PORT and the like are overridden"
    if spec.get("automountServiceAccountToken") is not False:
        yield "a token of the API is mounted"
    if spec.get("serviceAccountName", "default") == "default":
        yield "runs as the default service account"
    if not spec.get("priorityClassName"):
        yield "has no priority class"
    if any(not toleration.get("key") for toleration in spec.get("tolerations") or []):
        yield "tolerations has one without a key, which tolerates every taint"
    names = [container["name"] for container in containers(pod)]
    if len(set(names)) != len(names):
        yield f"two containers of one name: {names}"
    for container in containers(pod):
        name, image = container["name"], container.get("image") or ""
        _, _, tag = image.rpartition("/")[2].partition(":")
        if tag in ("", "latest"):
            yield f"{name}: image {image!r} has no version"
        if container.get("imagePullPolicy") != "IfNotPresent":
            yield f"{name}: an image loaded into the node would be pulled from a registry that has none"
        variables = [each["name"] for each in container.get("env") or []]
        if len(set(variables)) != len(variables):
            yield f"{name}: a variable twice in env"
        ask, top = (container.get("resources", {}).get(key) or {} for key in ("requests", "limits"))
        for resource in ("cpu", "memory", "ephemeral-storage"):
            if resource not in ask or resource not in top:
                yield f"{name}: no request or limit of {resource}"
        for resource in set(ask) & set(top):
            if quantity(ask[resource]) > quantity(top[resource]):
                yield f"{name}: requests more {resource} than its limit"
        for resource in {*ask, *top} - {"cpu", "memory", "ephemeral-storage"}:
            if ask.get(resource) != top.get(resource):
                yield f"{name}: of {resource} request and limit must be equal"
        paths = [mount["mountPath"] for mount in container.get("volumeMounts") or []]
        if len(set(paths)) != len(paths):
            yield f"{name}: two mounts at one path"
        if "/tmp" not in paths and name != "stage":
            yield f"{name}: a read-only root without a writable /tmp"
        if "/dev/shm" in paths:
            yield f"{name}: /dev/shm is KubeRay's to mount"


def quantity(value: object) -> float:
    """A Kubernetes quantity as a number."""
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(value))
    assert match is not None, f"not a quantity: {value}"
    return float(match[1]) * UNITS[match[2]]


def _names(everything: list[Object], namespace: str) -> dict[str, set[str]]:
    """Kind -> names of what a Pod of this namespace can refer to."""
    here = [o for o in everything if o["metadata"].get("namespace", namespace) == namespace]
    names = {kind: {o["metadata"]["name"] for o in here if o["kind"] == kind} for kind in
             ("ConfigMap", "PersistentVolumeClaim", "ServiceAccount", "PriorityClass")}  # fmt: skip
    for o in here:
        if o["kind"] == "StatefulSet":
            for claim in o["spec"].get("volumeClaimTemplates") or []:
                names["PersistentVolumeClaim"].add(f"{claim['metadata']['name']}-{o['metadata']['name']}-0")
    return names


def references(
    pod: Object, everything: list[Object], secrets: dict[tuple[str, str], dict[str, str]]
) -> Iterator[str]:
    """What a Pod refers to and is not there, in its own namespace."""
    spec, namespace = pod["spec"], pod["metadata"]["namespace"]
    names = _names(everything, namespace)
    if spec.get("serviceAccountName") not in names["ServiceAccount"]:
        yield f"there is no service account {spec.get('serviceAccountName')}"
    if spec.get("priorityClassName") not in names["PriorityClass"]:
        yield f"there is no priority class {spec.get('priorityClassName')}"
    volumes = {volume["name"] for volume in spec.get("volumes") or []}
    for volume in spec.get("volumes") or []:
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim and claim not in names["PersistentVolumeClaim"]:
            yield f"there is no claim {claim}"
        secret = volume.get("secret")
        if secret:
            keys = {item["key"] for item in secret.get("items") or []}
            yield from _secret((namespace, secret["secretName"]), keys, secrets)
        configmap = volume.get("configMap", {}).get("name")
        if configmap and configmap not in names["ConfigMap"]:
            yield f"there is no ConfigMap {configmap}"
    used = set()
    for container in containers(pod):
        for mount in container.get("volumeMounts") or []:
            used.add(mount["name"])
            if mount["name"] not in volumes:
                yield f"{container['name']} mounts {mount['name']}, which is no volume"
        for source in container.get("envFrom") or []:
            name = source.get("configMapRef", {}).get("name")
            if name and name not in names["ConfigMap"]:
                yield f"there is no ConfigMap {name}"
        for variable in container.get("env") or []:
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                yield from _secret((namespace, reference["name"]), {reference["key"]}, secrets)
            elif "value" not in variable and "valueFrom" not in variable:
                yield f"{container['name']}: {variable['name']} has no value"
    yield from (f"volume {name} is not used" for name in volumes - used)


def _secret(
    key: tuple[str, str], keys: set[str], secrets: dict[tuple[str, str], dict[str, str]]
) -> Iterator[str]:
    namespace, name = key
    if key not in secrets:
        yield f"there is no Secret {name} in namespace {namespace}"
    elif not keys <= secrets[key].keys():
        yield f"Secret {name} has no key {keys - secrets[key].keys()}"
