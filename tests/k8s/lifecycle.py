"""How Pods start, are watched, end and are tried again; as whom they run; and that they have room to work.

Bounds come from what the programs do, not from the manifests: each says why.
"""

import re
import shlex
from collections.abc import Iterator
from functools import cache

from tests.conftest import ROOT
from tests.k8s import probes
from tests.k8s.built import Built, built, cluster_name
from tests.k8s.disruption import workers_of
from tests.k8s.manifests import Object, cluster_spec, image_name, label
from tests.k8s.pod import quantity
from tests.k8s.programs import World, words

GIB = 2.0**30
SAVE_SECONDS = 60
"""What a server is given to end: PostgreSQL's checkpoint at shutdown, MLflow's uploads, SeaweedFS's flush;
and a training
worker to end its step and its upload. The most is what a drain of a node should have to wait for."""
MOST_SAVE_SECONDS = 900
MEASURED = {
    "mlflow": 0.6,
    "postgres": 0.25,
    "s3": 0.5,
    "ray-head": 2.3,
    "schema": 0.5,
    "users": 0.2,
    "ray-job-submitter": 0.2,
}
"""GiB that a container was measured to use (its manifest says with what), or its program's default buffers."""
PACKING_GIB = 0.3
"""Of a worker that packs and the process that proves its images, measured on the digits."""
WORKER_GIB = {False: 0.8, True: 6.5}
"""Of a training process, on a CPU (measured) and on a GPU (CUDA, torch, DALI, NCCL:
components/gpu-node/shape.yaml)."""
RAYLET_GIB, CHECKPOINT_GIB = 0.5, {False: 0.0, True: 3.0}
IMAGE_USERS = {"postgres": (999, 999), "seaweedfs": (1000, 1000)}
"""User and group of images that are not built here: of the official one (`id postgres`), and the one that
ours is run as."""


@cache
def image_user(image: str) -> tuple[int, int] | None:
    """User and group that an image is made for; None of an unknown image."""
    name = image_name(image)
    files = {"vgg-study": "k8s/Dockerfile", "vgg-study-mlflow": "k8s/mlflow/Dockerfile"}
    if name in files:
        found = re.search(r"^USER (\d+):(\d+)$", (ROOT / files[name]).read_text(), re.MULTILINE)
        assert found, files[name]
        return int(found[1]), int(found[2])
    return IMAGE_USERS.get(name)


def problems(world: World) -> Iterator[str]:
    """Everything about users, groups, probes, shutdown, retries and room."""
    pods = built(world.objects)
    for pod in pods:
        yield from (f"{pod.where}: {text}" for text in (*_users(pod), *_ends(pod), *_room(pod)))
        for container in pod.pod["spec"]["containers"]:
            texts = probes.problems(world, pod, container)
            yield from (f"{pod.where} {container['name']}: {text}" for text in texts)
    yield from _shared_claims(pods)
    for o in world.objects:
        yield from (f"{label(o)}: {text}" for text in _retries(o))


def _users(pod: Built) -> Iterator[str]:
    spec = pod.pod["spec"]
    whole = spec.get("securityContext") or {}
    for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
        both = {**whole, **(container.get("securityContext") or {})}
        mine = (both.get("runAsUser"), both.get("runAsGroup"))
        image = str(container.get("image", ""))
        if mine != image_user(image):
            yield (
                f"{container['name']} has runAsUser, runAsGroup "
                f"{mine}; image {image} is made for {image_user(image)}"
            )
    claims = [v["name"] for v in spec.get("volumes") or [] if "persistentVolumeClaim" in v or "ephemeral" in v]
    if claims and whole.get("fsGroup") != whole.get("runAsGroup"):
        yield (
            f"fsGroup {whole.get('fsGroup')}: group {whole.get('runAsGroup')} cannot write to volumes {claims}"
        )
    if whole.get("supplementalGroups"):
        yield f"supplementalGroups {whole['supplementalGroups']}: nothing needs them"


def _shared_claims(pods: list[Built]) -> Iterator[str]:
    groups: dict[str, set[object]] = {}
    for pod in pods:
        for volume in pod.pod["spec"].get("volumes") or []:
            if "persistentVolumeClaim" in volume:
                name = f"{pod.namespace}/{volume['persistentVolumeClaim']['claimName']}"
                groups.setdefault(name, set()).add(
                    (pod.pod["spec"].get("securityContext") or {}).get("fsGroup")
                )
    for name, found in groups.items():
        if len(found) > 1:
            yield f"claim {name}: its Pods have different fsGroup {sorted(map(str, found))}"


def _ends(pod: Built) -> Iterator[str]:
    spec, kind = pod.pod["spec"], pod.owner["kind"]
    grace = spec.get("terminationGracePeriodSeconds", 30)
    lasting = kind in ("StatefulSet", "Deployment", "DaemonSet") or pod.ray is not None
    if lasting and not SAVE_SECONDS <= grace <= MOST_SAVE_SECONDS:
        yield f"terminationGracePeriodSeconds {grace} is not between {SAVE_SECONDS} and {MOST_SAVE_SECONDS}"
    if "activeDeadlineSeconds" in spec:
        yield f"activeDeadlineSeconds {spec['activeDeadlineSeconds']} ends the Pod whatever it does"
    restart = spec.get("restartPolicy", "Always")
    if lasting and restart != "Always":
        yield f"restartPolicy {restart}: a container that ends is not started again"
    if pod.ray is not None:
        yield from _lost_node(spec)


def _lost_node(spec: Object) -> Iterator[str]:
    for condition in ("not-ready", "unreachable"):
        seconds = [
            t.get("tolerationSeconds", float("inf"))
            for t in spec.get("tolerations") or []
            if t.get("key") in (f"node.kubernetes.io/{condition}", None)
            and t.get("effect") in ("NoExecute", None)
        ]
        if min(seconds, default=300) > 60:
            yield (
                f"tolerations: a Pod of a node that is {condition} "
                f"is replaced after {min(seconds, default=300)} s"
            )


def _retries(o: Object) -> Iterator[str]:
    spec = o.get("spec") or {}
    if o["kind"] == "CronJob":
        if spec.get("suspend"):
            yield "suspend is on: it never runs"
        if not re.fullmatch(r"\d+ \d+ \* \* \*", spec["schedule"]):
            yield f"schedule {spec['schedule']!r} is not once a day"
        if spec.get("startingDeadlineSeconds", 3600) < 600:
            seconds = spec["startingDeadlineSeconds"]
            yield f"startingDeadlineSeconds {seconds}: a controller that restarts skips it"
        spec = spec["jobTemplate"]["spec"]
    if o["kind"] in ("Job", "CronJob"):
        if spec.get("backoffLimit", 6) < (
            5 if o["metadata"]["namespace"] == "vgg-services" and o["kind"] == "Job" else 1
        ):
            yield f"backoffLimit {spec.get('backoffLimit')}: its server may start later than it"
        if o["kind"] == "Job" and not 300 <= spec.get("ttlSecondsAfterFinished", -1) <= 7 * 86400:
            yield (
                f"ttlSecondsAfterFinished {spec.get('ttlSecondsAfterFinished')}: "
                "its log is lost, or it blocks the next apply"
            )
        if spec.get("suspend") or spec.get("parallelism", 1) != 1 or spec.get("completions", 1) != 1:
            yield "suspend, parallelism or completions: it is one run"
        if o["kind"] == "Job" and "activeDeadlineSeconds" in spec:
            yield f"activeDeadlineSeconds {spec['activeDeadlineSeconds']} ends it whatever it does"
    if o["kind"] in ("StatefulSet", "Deployment"):
        if spec.get("replicas", 1) != 1:
            yield f"replicas {spec.get('replicas')}: two servers on one disk or one schema"
        if "Delete" in (spec.get("persistentVolumeClaimRetentionPolicy") or {}).values():
            yield "persistentVolumeClaimRetentionPolicy deletes its claims, which an upgrade must not"
        if o["kind"] == "Deployment" and (spec.get("strategy") or {}).get("type") != "Recreate":
            yield "strategy is not Recreate: two versions at once"
        if (spec.get("updateStrategy") or {}).get("type", "RollingUpdate") != "RollingUpdate":
            yield f"updateStrategy {spec['updateStrategy']}: an upgrade changes nothing"
    if o["kind"] == "RayJob":
        yield from _training(spec)


def _training(spec: Object) -> Iterator[str]:
    if not 1 <= spec.get("backoffLimit", 0) <= 5:
        yield (
            f"backoffLimit {spec.get('backoffLimit', 0)}: a lost "
            "cluster is not tried again, or an error for ever"
        )
    if spec.get("shutdownAfterJobFinishes") is not True:
        yield "shutdownAfterJobFinishes is not true: the cluster keeps its GPUs after the job"
    if not 60 <= spec.get("ttlSecondsAfterFinished", 0) <= 3600:
        yield (
            f"ttlSecondsAfterFinished {spec.get('ttlSecondsAfterFinished', 0)}: "
            "no time to look, or GPUs held idle"
        )
    if "activeDeadlineSeconds" in spec:
        yield f"activeDeadlineSeconds {spec['activeDeadlineSeconds']}: a training is ended, and never retried"
    if spec.get("suspend"):
        yield "suspend is on: it never starts"
    if (spec.get("submitterConfig") or {}).get("backoffLimit", 2) < 1:
        yield "submitterConfig.backoffLimit: a submitter that loses its connection is not replaced"
    found = re.search(r"--layout\.wait-seconds=(\d+)", str(spec.get("entrypoint")))
    waits = int(found[1]) if found else 0
    if not waits + 600 <= spec.get("preRunningDeadlineSeconds", 0) <= 6 * 3600:
        yield (
            f"preRunningDeadlineSeconds {spec.get('preRunningDeadlineSeconds')}: "
            "it waits for ever, or shorter than images take"
        )


def _room(pod: Built) -> Iterator[str]:
    """Memory limits against what the containers use, and Ray's object store, which lies in memory too."""
    for container in pod.pod["spec"]["containers"]:
        limits = (container.get("resources") or {}).get("limits") or {}
        gpus = int(quantity(limits.get("nvidia.com/gpu", 0)))
        needed = MEASURED.get(container["name"], 0.0)
        packs = re.search(r"pipelines\.pack .*--workers (\d+)", " ".join(words(container)))
        needed += int(packs[1]) * PACKING_GIB if packs else 0
        for volume in pod.pod["spec"].get("volumes") or []:
            source = volume.get("emptyDir") or {}
            if source.get("medium") == "Memory" and volume["name"] != "shared-mem":  # which Ray's share is of
                needed += quantity(source.get("sizeLimit", limits.get("memory", 0))) / GIB
        if pod.ray is not None:
            needed += float(pod.ray.get("object-store-memory", 0.3 * quantity(limits.get("memory", 0)))) / GIB
        if container["name"] == "ray-worker":
            processes = max(gpus, 1)
            needed += processes * WORKER_GIB[gpus > 0] + RAYLET_GIB + CHECKPOINT_GIB[gpus > 0]
        if quantity(limits.get("memory", 0)) < needed * GIB:
            yield (
                f"{container['name']}: resources.limits.memory {limits.get('memory')}, it uses {needed:.1f} GiB"
            )


def layout_problems(o: Object) -> Iterator[str]:
    """Where a RayJob's entrypoint asks for another layout than its cluster has."""
    entrypoint, cluster = shlex.split(str(o["spec"].get("entrypoint") or "")), cluster_spec(o)
    options = dict(re.findall(r"--layout\.([\w-]+)=(\S+)", " ".join(entrypoint)))
    (group,) = cluster["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    gpus, count = int(quantity(limits.get("nvidia.com/gpu", 0))), int(group["maxReplicas"])
    fewest, workers = workers_of(" ".join(entrypoint))
    is_range = fewest < workers
    if "vgg.study" in entrypoint and (gpus or 1) * count % workers == 0:
        workers = (gpus or 1) * count  # as many steps at once as fill the cluster
    if gpus and workers != gpus * count:
        yield (
            f"{cluster_name(o)}: --layout.workers={workers}, the "
            f"cluster has {count} x {gpus} GPUs (nvidia.com/gpu)"
        )
    least = int(group.get("minReplicas", count))
    if is_range and fewest != (gpus or 1) * least:
        yield f"{cluster_name(o)}: at least {fewest} workers, minReplicas {least} gives {(gpus or 1) * least}"
    if (options.get("device") == "gpu") != (gpus > 0):
        yield f"{cluster_name(o)}: --layout.device={options.get('device')} with {gpus} GPUs a worker Pod"
    start = group.get("rayStartParams") or {}
    cpus = quantity(start.get("num-cpus", limits.get("cpu", 0)))
    if workers % count or int(options.get("cpus-per-worker", 1)) * (workers // count) > cpus:
        yield f"{cluster_name(o)}: {workers} workers do not fit {count} Pods of {cpus:g} CPUs"
