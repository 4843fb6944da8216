"""Whether all Pods and claims fit the nodes and storage classes that an overlay names in its nodes.yaml.

What the scheduler looks at (https://kubernetes.io/docs/concepts/scheduling-eviction/): requests against what
a node can allot, taints, nodeSelector, required affinity, and claims that are bound to one node.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.k8s import affinity
from tests.k8s.built import Built
from tests.k8s.manifests import Object, label
from tests.k8s.pod import quantity

MANY = {"ReadWriteMany", "ReadOnlyMany"}


@dataclass
class Node:
    """One node and what is left of it."""

    name: str
    labels: dict[str, str]
    taints: list[Object]
    free: dict[str, float]
    pods: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Claim:
    """A volume that Pods share."""

    name: str
    modes: tuple[str, ...]
    storage_class: str | None
    storage: float


def nodes_of(environment: Object) -> list[Node]:
    """The nodes of a nodes.yaml, one by one."""
    made = []
    for pool in environment["nodes"]:
        for i in range(pool["count"]):
            free = {name: quantity(amount) for name, amount in pool["allottable"].items()}
            labels = {**(pool.get("labels") or {}), "kubernetes.io/hostname": f"{pool['name']}-{i}"}
            made.append(Node(f"{pool['name']}-{i}", labels, pool.get("taints") or [], {"pods": 100, **free}))
    return made


def problems(pods: list[Built], objects: list[Object], environment: Object) -> Iterator[str]:
    """What does not fit when all of these Pods run together."""
    claims = {claim.name: claim for claim in _claims(objects, environment)}
    yield from _classes(claims, environment)
    nodes = nodes_of(environment)
    by_name = {node.name: node for node in nodes}
    bound: dict[str, str] = {}  # claim -> node, of claims that only one node can mount
    todo = [(pod, i) for pod in pods for i in range(pod.count)]
    todo.sort(key=lambda each: (-requests(each[0]).get("nvidia.com/gpu", 0), -requests(each[0])["cpu"]))
    for pod, i in todo:
        single = [name for name in _mounted(pod) if name in claims and not MANY & set(claims[name].modes)]
        for name in _mounted(pod):
            if name in claims and "ReadWriteOncePod" in claims[name].modes and name in bound:
                yield f"{pod.where}: claim {name} is ReadWriteOncePod, and another Pod mounts it (accessModes)"
        pinned = {bound[name] for name in single if name in bound}
        candidates = [by_name[name] for name in pinned] if pinned else _ordered(nodes, pod, pods)
        node = next((n for n in candidates if not _unfit(pod, n)), None) if len(pinned) <= 1 else None
        if node is None:
            yield _told(pod, i, candidates, pinned, bound)
            continue
        for name, amount in requests(pod).items():
            node.free[name] -= amount
        node.pods.append(pod.where)
        bound |= dict.fromkeys(single, node.name)


def _told(pod: Built, i: int, candidates: list[Node], pinned: set[str], bound: dict[str, str]) -> str:
    mine = ", ".join(sorted(name for name, node in bound.items() if node in pinned and name in _mounted(pod)))
    where = f" (claim {mine} is ReadWriteOnce and bound to {', '.join(sorted(pinned))})" if pinned else ""
    reasons = "; ".join(f"{n.name}: {_unfit(pod, n)}" for n in candidates)
    return f"{pod.where}, Pod {i + 1} of {pod.count}, fits no node{where}: {reasons}"


def _ordered(nodes: list[Node], pod: Built, pods: list[Built]) -> list[Node]:
    """Nodes to try: those without taints last for Pods whose claim a GPU Pod needs, first for the others."""
    shared = {
        name
        for other in pods
        if "nvidia.com/gpu" in requests(other) and other.count
        for name in _mounted(other)
    }
    with_gpus = bool(shared & set(_mounted(pod)))
    return sorted(nodes, key=lambda node: bool(node.taints) != with_gpus)


def requests(pod: Built) -> dict[str, float]:
    """What the scheduler counts: the sum of the containers or, if larger, the largest init container."""
    spec = pod.pod["spec"]
    total: dict[str, float] = {"pods": 1, "cpu": 0}
    for container in spec["containers"]:
        for name, amount in asked(container).items():
            total[name] = total.get(name, 0) + amount
    for container in spec.get("initContainers") or []:
        for name, amount in asked(container).items():
            total[name] = max(total.get(name, 0), amount)
    return total


def asked(container: Object) -> dict[str, float]:
    """Requests of one container; where there is only a limit, that is the request."""
    resources = container.get("resources") or {}
    both = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: quantity(amount) for name, amount in both.items()}


def _unfit(pod: Built, node: Node) -> str:
    reason = affinity.refusal(pod.pod["spec"], node.labels, node.taints)
    if reason:
        return reason
    for name, amount in requests(pod).items():
        if amount > node.free.get(name, 0):
            return (
                f"resources.requests of {name}: {amount:g}, {node.free.get(name, 0):g} are left of {node.name}"
            )
    return ""


def _mounted(pod: Built) -> list[str]:
    """Names of the claims that a Pod mounts, with the namespace."""
    return [
        f"{pod.namespace}/{volume['persistentVolumeClaim']['claimName']}"
        for volume in pod.pod["spec"].get("volumes") or []
        if "persistentVolumeClaim" in volume
    ]


def _claims(objects: list[Object], environment: Object) -> Iterator[Claim]:
    for brought in environment.get("claims") or []:
        name = f"{brought['namespace']}/{brought['name']}"
        yield Claim(name, tuple(brought["accessModes"]), None, quantity(brought["storage"]))
    for o in objects:
        space = o["metadata"].get("namespace", "default")
        if o["kind"] == "PersistentVolumeClaim":
            yield _claim(f"{space}/{o['metadata']['name']}", o["spec"])
        for template in (o.get("spec") or {}).get("volumeClaimTemplates") or []:
            name = f"{space}/{template['metadata']['name']}-{o['metadata']['name']}-0"
            yield _claim(name, template["spec"])
        for volume in _ephemeral(o):
            yield _claim(f"{label(o)} {volume['name']}", volume["ephemeral"]["volumeClaimTemplate"]["spec"])


def _ephemeral(o: Object) -> Iterator[Object]:
    """Volumes with a claim for each Pod, in a RayCluster or RayJob."""
    if o["kind"] not in ("RayCluster", "RayJob"):
        return
    spec = o["spec"] if o["kind"] == "RayCluster" else o["spec"]["rayClusterSpec"]
    for group in spec["workerGroupSpecs"]:
        yield from (v for v in group["template"]["spec"].get("volumes") or [] if "ephemeral" in v)


def _claim(name: str, spec: Object) -> Claim:
    size = quantity(spec["resources"]["requests"]["storage"])
    return Claim(name, tuple(spec["accessModes"]), spec.get("storageClassName"), size)


def _classes(claims: dict[str, Claim], environment: Object) -> Iterator[str]:
    """Claims that no storage class of the overlay provides."""
    classes = {each["name"]: each for each in environment["storageClasses"]}
    default = next((each["name"] for each in environment["storageClasses"] if each.get("default")), None)
    used: dict[str, float] = {}
    for claim in claims.values():
        name = str(claim.storage_class or default)
        if name not in classes:
            yield f"claim {claim.name}: there is no storage class {name} (storageClassName)"
            continue
        lacking = set(claim.modes) - set(classes[name]["accessModes"]) - {"ReadWriteOncePod"}
        if lacking:
            yield f"claim {claim.name}: class {name} does not provide {sorted(lacking)} (accessModes)"
        if set(claim.modes) == {"ReadOnlyMany"}:
            yield f"claim {claim.name}: accessModes {list(claim.modes)}: nobody can fill it"
        used[name] = used.get(name, 0) + claim.storage
    for name, total in used.items():
        if total > quantity(classes[name]["capacity"]):
            yield f"claims of class {name} ask for {total:g} bytes, it has {classes[name]['capacity']}"


def quota_problems(pods: list[Built], objects: list[Object]) -> Iterator[str]:
    """Pods that a ResourceQuota of their namespace refuses."""
    for quota in (o for o in objects if o["kind"] == "ResourceQuota"):
        terms = (quota["spec"].get("scopeSelector") or {}).get("matchExpressions") or []
        classes = [value for term in terms for value in term.get("values") or []]
        mine = [
            p
            for p in pods
            if p.namespace == quota["metadata"]["namespace"]
            and (not terms or p.pod["spec"].get("priorityClassName") in classes)
        ]
        for name, limit in quota["spec"]["hard"].items():
            key = name.removeprefix("requests.")
            total = sum(p.count * requests(p).get(key, 0) for p in mine)
            if total > quantity(limit):
                yield f"{label(quota)}: spec.hard {name} is {limit}, the Pods ask for {total:g}"
