"""What the containers' programs do: where they listen, which pages they have, which variables they read.

Read off the programs' own documentation: `mlflow server --help`, `weed server -help`, the PostgreSQL image's
README, `ray start --help`.
"""

import re
from dataclasses import dataclass

from tests.k8s.built import Built
from tests.k8s.manifests import Object, find_in, image_name

EVERYWHERE = ("0.0.0.0", "::", "")
WEED = {"master.port": 9333, "volume.port": 8080, "filer.port": 8888}
WEED_GRPC = 10_000
"""SeaweedFS opens a gRPC port this far above each of its ports."""
PAGES = {"mlflow": {"/health"}, "weed": {"/healthz"}, "ray": {"/api/healthz"}}
"""Pages that answer without a login; each was asked for on the running server (tests of tracking and token)."""


@dataclass(frozen=True)
class World:
    """Rendered objects and the values of their Secrets."""

    objects: list[Object]
    secrets: dict[tuple[str, str], dict[str, str]]
    """(namespace, name) -> key -> value."""


def words(container: Object) -> list[str]:
    """Command and arguments."""
    return [str(word) for word in [*(container.get("command") or []), *(container.get("args") or [])]]


def program(container: Object) -> str:
    """Which server a container runs, or ''."""
    command, image = words(container), image_name(str(container.get("image", "")))
    if command[:2] == ["mlflow", "server"]:
        return "mlflow"
    if command[:1] == ["weed"]:
        return "weed"
    if image == "postgres" and not command:
        return "postgres"
    return ""


def flag(container: Object, name: str, default: str = "") -> str:
    """Value of -name=value, --name=value or `--name value` in a container's command."""
    command = words(container)
    for i, word in enumerate(command):
        found = re.fullmatch(rf"--?{re.escape(name)}(=(.*))?", word)
        if found:
            return found[2] if found[1] else (command[i + 1] if i + 1 < len(command) else "")
    return default


def environment(world: World, pod: Object, container: Object) -> dict[str, str]:
    """Variables as the kubelet resolves them; what cannot be resolved is left out."""
    namespace = pod["metadata"]["namespace"]
    env: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        found = find_in(world.objects, "ConfigMap", namespace, source.get("configMapRef", {}).get("name"))
        env |= (found or {}).get("data") or {}
    for variable in container.get("env") or []:
        if "value" in variable:
            env[variable["name"]] = str(variable["value"])
            continue
        reference = (variable.get("valueFrom") or {}).get("secretKeyRef") or {}
        values = world.secrets.get((namespace, str(reference.get("name"))), {})
        if reference.get("key") in values:
            env[variable["name"]] = values[reference["key"]]
    return env


def files(world: World, pod: Object, container: Object) -> dict[str, str]:
    """Path -> text of the files that Secrets and ConfigMaps put into a container."""
    namespace, found = pod["metadata"]["namespace"], {}
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or []}
    for mount in container.get("volumeMounts") or []:
        volume = volumes.get(mount["name"], {})
        if "secret" in volume:
            source, data = volume["secret"], world.secrets.get((namespace, volume["secret"]["secretName"]), {})
        elif "configMap" in volume:
            source = volume["configMap"]
            configmap = find_in(world.objects, "ConfigMap", namespace, source.get("name"))
            data = (configmap or {}).get("data") or {}
        else:
            continue
        items = source.get("items") or [{"key": key, "path": key} for key in data]
        for item in items:
            if item["key"] in data:
                found[f"{mount['mountPath']}/{item['path']}"] = data[item["key"]]
    return found


def listeners(world: World, built: Built) -> dict[int, str]:
    """Port -> address that it is bound to, of all containers of a Pod."""
    found: dict[int, str] = {}
    if built.ray is not None:
        found |= {int(built.ray[key]): "" for key in built.ray if key.endswith("port")}
        if "dashboard-port" in built.ray:
            found[int(built.ray["dashboard-port"])] = built.ray["dashboard-host"]
    for container in built.pod["spec"]["containers"]:
        env, name = environment(world, built.pod, container), program(container)
        if name == "mlflow":
            port = flag(container, "port") or flag(container, "p") or env.get("MLFLOW_PORT", "5000")
            host = flag(container, "host") or flag(container, "h") or env.get("MLFLOW_HOST", "127.0.0.1")
            found[int(port)] = host
        elif name == "postgres":
            found[int(env.get("PGPORT", "5432"))] = ""
        elif name == "weed":
            bound = flag(container, "ip.bind", flag(container, "ip"))
            for key, default in WEED.items():
                port_number = int(flag(container, key, str(default)))
                found |= {port_number: bound, port_number + WEED_GRPC: bound}
            if flag(container, "s3", "false") != "false" or "-s3" in words(container):
                found[int(flag(container, "s3.port", "8333"))] = flag(container, "s3.ip.bind", bound)
    return found


def is_open(host: str | None) -> bool:
    """Whether something bound to this address answers to other Pods and to the kubelet."""
    return host in EVERYWHERE
