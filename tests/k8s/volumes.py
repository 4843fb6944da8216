"""Whether what programs read and write lies on a claim, with room and the right to write."""

import re
from collections.abc import Iterator

from tests.k8s import programs
from tests.k8s.built import Built, built
from tests.k8s.manifests import Object, label
from tests.k8s.pod import quantity
from tests.k8s.programs import World

GIB = 2**30
NEEDED = {
    "/data/imagenet": 160 * GIB,
    "/data/digits": GIB,
    "/var/lib/postgresql/data/pgdata": GIB,
    "/data": GIB,
    "/backup": GIB,
}
"""Packed data sets: ImageNet takes 150 GB (docs/kubernetes.md), the digits a few megabytes. PostgreSQL keeps up
to 1 GB of its log (max_wal_size)."""
RUN_FOLDERS = {"postgres": "/var/run/postgresql"}
"""Where a program writes at run time, which a read-only root does not allow."""
TMP_BYTES = 2 * GIB
"""Ray's logs and sockets, MLflow's spool, and checkpoints before they are uploaded."""


def problems(world: World) -> Iterator[str]:
    """Paths on no claim, claims that are read-only or too small, selectors of affinity that select nobody."""
    sizes = _sizes(world.objects)
    for pod in built(world.objects):
        for container in [*(pod.pod["spec"].get("initContainers") or []), *pod.pod["spec"]["containers"]]:
            if container["name"] == "wait-gcs-ready":
                continue
            where = f"{pod.where} {container['name']}"
            folder = RUN_FOLDERS.get(programs.program(container))
            if folder and folder not in {m["mountPath"] for m in container.get("volumeMounts") or []}:
                yield f"{where}: {folder} is on no volume (volumeMounts), and the root is read-only"
            for path, writes in _paths(world, pod, container):
                yield from (f"{where}: {text}" for text in _on_claim(pod, container, path, writes, sizes))
        yield from (f"{pod.where}: {text}" for text in (*_tmp(pod), *_groups(pod)))
    for o in world.objects:
        if o["kind"] == "CronJob" and o["spec"].get("concurrencyPolicy") != "Forbid":
            yield f"{label(o)}: concurrencyPolicy {o['spec'].get('concurrencyPolicy')}: two dumps at once"


def _sizes(objects: list[Object]) -> dict[tuple[str | None, str], str]:
    """(namespace, claim) -> storage that it requests."""
    found = {}
    for o in objects:
        space, name = o["metadata"].get("namespace"), o["metadata"]["name"]
        if o["kind"] == "PersistentVolumeClaim":
            found[space, name] = o["spec"]["resources"]["requests"]["storage"]
        for template in (o.get("spec") or {}).get("volumeClaimTemplates") or []:
            claim = f"{template['metadata']['name']}-{name}-0"
            found[space, claim] = template["spec"]["resources"]["requests"]["storage"]
    return found


def _paths(world: World, pod: Built, container: Object) -> Iterator[tuple[str, bool]]:
    """Path -> whether it is written, of what must outlive the container."""
    env, name = programs.environment(world, pod.pod, container), programs.program(container)
    if name == "postgres":
        yield env.get("PGDATA", "/var/lib/postgresql/data"), True
    if name == "weed":
        yield programs.flag(container, "dir", "/tmp"), True
    if name == "mlflow" and "://" not in env.get("MLFLOW_ARTIFACTS_DESTINATION", "./mlartifacts"):
        yield env.get("MLFLOW_ARTIFACTS_DESTINATION", "./mlartifacts"), True
    text = "\n".join(programs.words(container))
    packing = re.search(r"pipelines\.pack\s+(\S+)\s+(/\S+)", text)
    if packing:
        yield packing[2], True
        if packing[1].startswith("/"):
            yield packing[1], False
    if "pg_dump" in text:
        yield "/backup", True
    if pod.ray is not None and container is pod.pod["spec"]["containers"][0]:
        entrypoint = str(pod.owner["spec"].get("entrypoint", ""))
        yield from ((path, False) for path in re.findall(r"--data=(/\S+)", entrypoint))


def _on_claim(
    pod: Built, container: Object, path: str, writes: bool, sizes: dict[tuple[str | None, str], str]
) -> Iterator[str]:
    mounts = [m for m in container.get("volumeMounts") or [] if f"{path}/".startswith(f"{m['mountPath']}/")]
    if not mounts:
        yield f"{path} is on no volume (volumeMounts)"
        return
    mount = max(mounts, key=lambda m: len(m["mountPath"]))
    (volume,) = [v for v in pod.pod["spec"]["volumes"] if v["name"] == mount["name"]] or [{}]
    source = volume.get("persistentVolumeClaim") or volume.get("ephemeral")
    if source is None:
        yield f"{path} is on volume {mount['name']}, which ends with the Pod"
        return
    if programs.program(container) == "postgres" and path == mount["mountPath"]:
        yield f"PGDATA {path} is the root of a volume, where lost+found is"
    read_only = bool(mount.get("readOnly") or source.get("readOnly"))
    if writes and read_only:
        yield f"{path} is written, and mount {mount['mountPath']} is readOnly"
    if not writes and not read_only and pod.ray is not None and "claimName" in source:
        yield f"{path} is only read, and mount {mount['mountPath']} is not readOnly"
    size = sizes.get((pod.namespace, source.get("claimName", "")))
    if size is not None and quantity(size) < NEEDED.get(path, 0):
        yield f"{path} takes {NEEDED[path] / GIB:.0f} GiB; claim {source['claimName']} requests {size}"


def _tmp(pod: Built) -> Iterator[str]:
    if pod.ray is None:
        return
    for volume in pod.pod["spec"]["volumes"]:
        limit = (volume.get("emptyDir") or {}).get("sizeLimit")
        if volume["name"] == "tmp" and limit is not None and quantity(limit) < TMP_BYTES:
            yield f"volume tmp: emptyDir.sizeLimit {limit}"
    for container in pod.pod["spec"]["containers"]:
        most = container["resources"].get("limits", {}).get("ephemeral-storage", "0")
        if quantity(most) < TMP_BYTES:
            yield f"{container['name']}: resources.limits.ephemeral-storage {most}: it is evicted as /tmp fills"


def _groups(pod: Built) -> Iterator[str]:
    """Data sets have thousands of files, whose group is not to be changed at every start."""
    whole = pod.pod["spec"].get("securityContext") or {}
    claims = [
        (v.get("persistentVolumeClaim") or {}).get("claimName") for v in pod.pod["spec"].get("volumes") or []
    ]
    if "data" in claims and whole.get("fsGroupChangePolicy") != "OnRootMismatch":
        yield f"fsGroupChangePolicy {whole.get('fsGroupChangePolicy')}: each start changes the files"
    for term in re.findall(r"'matchLabels': (\{[^}]*\})", str(pod.pod["spec"].get("affinity") or "")):
        wanted = dict(re.findall(r"'([^']+)': '([^']+)'", term))
        if not wanted.items() <= pod.labels.items():
            yield f"affinity to Pods labelled {wanted}, and it has {pod.labels}"
