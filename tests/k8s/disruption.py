"""Who may be taken off a node, and who may run on one that the cloud takes back (a spot node).

A training of a fixed number of workers stops when one goes: nothing is evicted, and nothing is on a spot node.
One on a range of workers (`--layout.workers 8..32`) may have them there, and then nothing may hold up their
eviction, by which the cloud's notice reaches a Pod: the node goes anyway.
- A budget refuses the eviction (https://kubernetes.io/docs/tasks/run-application/configure-pdb/).
- Karpenter does not evict Pods of `karpenter.sh/do-not-disrupt` (karpenter-provider-aws, issue 8276).
"""

import re
from collections.abc import Iterator

from tests.k8s import affinity
from tests.k8s.built import Built, built
from tests.k8s.manifests import Object, label
from tests.k8s.policies import matches
from tests.k8s.programs import World

SPOT = {
    "GKE": ("cloud.google.com/gke-spot", "true"),
    "GKE's older kind": ("cloud.google.com/gke-preemptible", "true"),
    "EKS": ("eks.amazonaws.com/capacityType", "SPOT"),
    "Karpenter": ("karpenter.sh/capacity-type", "spot"),
    "AKS": ("kubernetes.azure.com/scalesetpriority", "spot"),
}
"""Label that a cloud gives its spot nodes; where they are tainted, by the same key and value."""
GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
STAYS = {"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
MOST_SECONDS_LOST = 600
"""Of a node that goes without notice, the work since the last checkpoint."""


def workers_of(entrypoint: str) -> tuple[int, int]:
    """Fewest and most workers that an entrypoint asks for."""
    found = re.search(r"--layout\.workers[= ](?:(\d+)\.\.)?(\d+)", entrypoint)
    most = int(found[2]) if found else 1
    return (int(found[1]) if found and found[1] else most), most


def is_elastic(pod: Built) -> bool:
    """Whether its training goes on without this Pod."""
    fewest, most = workers_of(str(pod.owner["spec"].get("entrypoint", "")))
    return pod.is_worker and fewest < most


def spot_nodes() -> Iterator[tuple[str, dict[str, str], list[Object]]]:
    """A cloud's name, labels and taints of its spot nodes, with GPUs."""
    for cloud, (key, value) in SPOT.items():
        for taints in ([], [{"key": key, "value": value, "effect": "NoSchedule"}]):
            yield cloud, {key: value}, [GPU_TAINT, *taints]


def lands_on_spot(pod: Built) -> list[str]:
    """The clouds on whose spot nodes a Pod may be placed, tainted or not, with GPUs or without."""
    spec = pod.pod["spec"]
    found = {
        cloud
        for cloud, labels, taints in spot_nodes()
        for these in (taints, taints[1:])
        if not affinity.refusal(spec, labels, these)
    }
    return sorted(found)


def problems(world: World) -> Iterator[str]:
    """Pods on spot nodes that must not be there, or cannot get there; budgets and annotations that disagree."""
    pods = built(world.objects)
    budgets = [o for o in world.objects if o["kind"] == "PodDisruptionBudget"]
    for pod in pods:
        yield from (f"{pod.where}: {text}" for text in (*_placed(pod), *_kept(pod, budgets)))
    yield from (text for budget in budgets for text in _counted(budget, pods))


def _placed(pod: Built) -> Iterator[str]:
    lasting = pod.ray is not None or pod.owner["kind"] in ("StatefulSet", "Deployment")
    clouds = lands_on_spot(pod)
    if lasting and clouds and not is_elastic(pod):
        yield f"spec.affinity allows spot nodes of {clouds}, and it must not be lost"
    if not clouds or not affinity.refusal(pod.pod["spec"], {}, []):
        return
    for cloud, labels, taints in spot_nodes():  # it is for spot nodes alone: for those of every cloud
        reason = affinity.refusal(pod.pod["spec"], labels, taints)
        if reason:
            yield f"not placed on spot nodes of {cloud}: {reason}"
    found = re.search(r"--train\.checkpoint-seconds=(\d+)", str(pod.owner["spec"].get("entrypoint")))
    if not found or int(found[1]) > MOST_SECONDS_LOST:
        yield f"on spot nodes, and --train.checkpoint-seconds is not set, or above {MOST_SECONDS_LOST}"


def _kept(pod: Built, budgets: list[Object]) -> Iterator[str]:
    """A Ray Pod is held by one budget and both annotations; one on a spot node by none."""
    if pod.ray is None:
        return
    annotations = pod.pod["metadata"].get("annotations") or {}
    mine = [label(budget) for budget in budgets if _selects(budget, pod)]
    if lands_on_spot(pod):
        for key in STAYS.keys() & annotations.keys():
            yield f"annotation {key} holds up its eviction from a spot node, by which it hears of the end"
        if mine:
            yield f"{mine} hold up its eviction from a spot node, by which it hears of the end"
        return
    for key, value in STAYS.items():
        if annotations.get(key) != value:
            yield f"annotation {key} is not {value}, though the disruption budget allows nothing"
    if len(mine) > 1:
        yield f"{mine}: the eviction API fails where two budgets select a Pod"
    if not mine:
        yield "no PodDisruptionBudget selects it (selector.matchLabels)"


def _selects(budget: Object, pod: Built) -> bool:
    return budget["metadata"].get("namespace", "default") == pod.namespace and matches(
        budget["spec"]["selector"], pod.labels
    )


def _counted(budget: Object, pods: list[Built]) -> Iterator[str]:
    """A RayCluster has no scale subresource, so only an absolute minAvailable works."""
    total = sum(_size(pod) for pod in pods if _selects(budget, pod))
    least = budget["spec"].get("minAvailable")
    if not isinstance(least, int) or least != total:
        yield f"{label(budget)}: keeps {least} Pods, the cluster has {total}"


def _size(pod: Built) -> int:
    """How many there are of a Pod once its cluster runs: a suspended one will."""
    if not pod.is_worker:
        return 1
    spec = pod.owner["spec"] if pod.owner["kind"] == "RayCluster" else pod.owner["spec"]["rayClusterSpec"]
    group = pod.pod["metadata"]["labels"]["ray.io/group"]
    return sum(int(g.get("replicas", 0)) for g in spec["workerGroupSpecs"] if g["groupName"] == group)
