"""What must not be possible: every connection that policies allow and no conversation needs is a finding.

Asked of the Pods themselves, of strangers in this and other namespaces, and of a researcher's Pod, which may
carry any label that a policy knows.
"""

import ipaddress
from collections.abc import Iterator

from tests.k8s import programs
from tests.k8s.built import Built, built
from tests.k8s.conversations import (
    OPERATOR,
    PROMETHEUS,
    RESOLVERS,
    Conversation,
    backends,
    conversations,
    end,
    service_of,
)
from tests.k8s.manifests import Object, label
from tests.k8s.policies import End, allowed, blocked_at, matches, selecting
from tests.k8s.programs import World

TRAININGS = "vgg"
OFFERED = {"ray-client": {8265, 10001}, "mlflow-client": {5000}}
"""Roles (label vgg/role) for Pods that a user may bring, and the ports that they are meant to reach."""
METADATA = (
    *(("169.254.169.254", port) for port in (80, 443, 988, 8080)),
    ("169.254.170.2", 80),  # credentials of ECS and of EKS
    ("169.254.170.23", 80),
    ("fd00:ec2::254", 80),
    ("100.100.100.200", 80),  # Alibaba
)
STRANGE_ADDRESSES = (*METADATA, ("10.96.0.1", 443), ("10.0.0.10", 22), ("8.8.8.8", 443), ("8.8.8.8", 53))
INSIDE = [ipaddress.ip_network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")]
WIDEST = 16
"""Prefix of the widest range that still names somebody."""


def problems(world: World, outside: dict[str, str]) -> Iterator[str]:
    """Connections that are possible and should not be."""
    policies = [o for o in world.objects if o["kind"] == "NetworkPolicy"]
    pods = built(world.objects)
    needed = _needed(world, pods)
    for space in {pod.namespace for pod in pods}:
        for direction in ("ingress", "egress"):
            if not selecting(policies, End("a stranger", space), direction):
                yield f"{space}: no policy selects a Pod without labels for {direction}: it is open"
        for target in pods:  # held at the target as well: its own rules may be the only ones
            for port in programs.listeners(world, target):
                if not blocked_at("ingress", policies, End("a stranger", space), end(target), port):
                    yield f"port {port} of {target.where} takes connections from any Pod of {space}"
    for source in [*map(end, pods), *_visitors(policies)]:
        for target in pods:
            if source.name == target.where and target.count <= 1:
                continue
            yield from _too_open(world, policies, needed, source, target)
        for address, port in STRANGE_ADDRESSES:
            if address not in outside.values() and source.namespace in {p.namespace for p in pods}:
                for protocol in ("TCP", "UDP"):
                    if allowed(policies, source, End(address, address=address), port, protocol):
                        yield f"{source.name} ({source.namespace}) reaches {address}:{port} over {protocol}"
    yield from _blocks(world, policies, pods, outside)
    for pod in pods:
        yield from _listens_in_vain(world, pod)


def _needed(world: World, pods: list[Built]) -> set[tuple[str, str, int]]:
    """(source, target, port) of all conversations inside the cluster."""
    needed = set()
    for c in conversations(world):
        who = c.source if isinstance(c.source, End) else end(c.source)
        service = service_of(world, c.host, who.namespace)
        for pod in backends(service, pods) if service else []:
            needed.add((who.name, pod.where, c.port))
    return needed


def _visitors(policies: list[Object]) -> list[End]:
    """Who is not rendered: strangers, the operator, and researchers' Pods with labels of their choice."""
    spaces = {policy["metadata"].get("namespace", "default") for policy in policies}
    known = [End("a stranger", space) for space in spaces]
    known += [End("a stranger", "elsewhere"), End("a server's namesake", "elsewhere", OPERATOR.labels)]
    known += [OPERATOR, PROMETHEUS, End("an address outside", address="8.8.8.8")]
    for labels in _selected_labels(policies):
        known.append(End(f"a researcher's Pod labelled {labels}", TRAININGS, labels))
        known.append(End(f"a Pod labelled {labels}", "elsewhere", labels))
    return known


def _selected_labels(policies: list[Object]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for policy in policies:
        selectors = [policy["spec"].get("podSelector")]
        for rule in [*(policy["spec"].get("ingress") or []), *(policy["spec"].get("egress") or [])]:
            selectors += [
                peer.get("podSelector") for peer in [*(rule.get("from") or []), *(rule.get("to") or [])]
            ]
        found += [s["matchLabels"] for s in selectors if s and s.get("matchLabels")]
    return [labels for i, labels in enumerate(found) if labels not in found[:i]]


def _too_open(
    world: World, policies: list[Object], needed: set[tuple[str, str, int]], source: End, target: Built
) -> Iterator[str]:
    if source.namespace == target.namespace == TRAININGS and target.ray is not None and _is_ray(source):
        return  # the nodes of Ray clusters talk at random ports
    for port, host in programs.listeners(world, target).items():
        if not programs.is_open(host) or not allowed(policies, source, end(target), port):
            continue
        role = source.labels.get("vgg/role", "")
        offered = OFFERED.get(role, set()) if source.namespace == target.namespace else set()
        if (source.name, target.where, port) in needed or port in offered:
            continue
        if source.name.startswith("a researcher's") and _as_rendered(needed, world, source, target, port):
            continue
        if source.name.endswith(" submitter") and port == int((target.ray or {}).get("dashboard-port", 0)):
            continue  # no policy can select "the same cluster"; the token is asked for as well
        if source.namespace == PROMETHEUS.namespace and target.ray is not None and port == _metrics(target):
            continue
        who = f"{source.name} ({source.namespace or 'outside'})"
        yield f"{who} reaches {target.where}:{port}, and nothing needs it"


def _is_ray(source: End) -> bool:
    return source.labels.get("ray.io/is-ray-node") == "yes"


def _metrics(target: Built) -> int:
    return int((target.ray or {}).get("metrics-export-port", 0))


def _as_rendered(
    needed: set[tuple[str, str, int]], world: World, source: End, target: Built, port: int
) -> bool:
    """Whether a rendered Pod of trainings with these labels needs the same: it gains nothing by the label."""
    alike = [
        pod.where
        for pod in built(world.objects)
        if pod.namespace == TRAININGS and matches({"matchLabels": source.labels}, pod.labels)
    ]
    return any((name, target.where, port) in needed for name in alike) or (
        source.labels.get("vgg/role") in ("study", "submitter") and port in (5000, 8333, 8265)
    )


def _blocks(world: World, policies: list[Object], pods: list[Built], outside: dict[str, str]) -> Iterator[str]:
    """Egress to address blocks: each holds an address that its Pods need, and little else."""
    resolvers = {resolver.address for resolver in RESOLVERS}
    for policy in policies:
        for rule in policy["spec"].get("egress") or []:
            peers = rule.get("to") or []
            ports = {int(p["port"]) for p in rule.get("ports") or [] if str(p.get("port", "")).isdigit()}
            if not peers and "Egress" in policy["spec"].get("policyTypes", []):
                yield f"{label(policy)}: an egress rule without `to` allows every address"
            resolving = ports == {53}
            for block in (peer["ipBlock"] for peer in peers if "ipBlock" in peer):
                network = ipaddress.ip_network(block["cidr"], strict=False)
                if resolving and network.num_addresses == 1 and str(network[0]) in resolvers:
                    continue
                wanted = _wanted(world, policies, policy, pods, outside)
                if not ports or not any(
                    ipaddress.ip_address(address) in network and port in ports for address, port in wanted
                ):
                    asked = f"{network}, ports {sorted(ports) or 'all'}"
                    yield f"{label(policy)}: egress to {asked}: nothing needs it"
                elif network.prefixlen < WIDEST:
                    yield f"{label(policy)}: egress to {network} names nobody in particular"
                elif any(network.overlaps(n) for n in INSIDE) and network.prefixlen < 24:
                    yield f"{label(policy)}: egress to {network} covers addresses inside the cluster"


def _wanted(
    world: World, policies: list[Object], policy: Object, pods: list[Built], outside: dict[str, str]
) -> set[tuple[str, int]]:
    selected = {p.where for p in pods if policy in selecting(policies, end(p), "egress")}
    if matches(policy["spec"].get("podSelector"), {"vgg/role": "study"}):
        # The same ConfigMap gives Ray's Pods and these Jobs their addresses.
        selected |= {p.where for p in pods if p.ray is not None}
    found: list[Conversation] = conversations(world)
    return {
        (outside[c.host], c.port)
        for c in found
        if isinstance(c.source, Built) and c.source.where in selected and c.host in outside
    }


def _listens_in_vain(world: World, pod: Built) -> Iterator[str]:
    """Ports that answer to other Pods and are not named, and named ports at which nobody listens."""
    named = {int(p["containerPort"]) for c in pod.pod["spec"]["containers"] for p in c.get("ports") or []}
    listening = programs.listeners(world, pod)
    for port, host in listening.items():
        if programs.is_open(host) and port not in named and pod.ray is None:
            where = f"{port} on every interface ({host or 'all'})"
            yield f"{pod.where} listens at {where}, which is none of its ports"
    for port in named - listening.keys():
        yield f"{pod.where}: containerPort {port}, where nothing listens ({sorted(listening)})"
