"""NetworkPolicies as a network plugin applies them: who may open a connection to whom.

https://kubernetes.io/docs/concepts/services-networking/network-policies/: without a policy that selects a
Pod in a direction everything is allowed; otherwise what any rule of any such policy allows. A connection
needs both ends.
"""

import ipaddress
from dataclasses import dataclass, field

from tests.k8s.manifests import Object


@dataclass(frozen=True)
class End:
    """One end of a connection: a Pod, or an address outside."""

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    address: str = ""
    """Of an end that is no Pod."""
    ports: dict[str, int] = field(default_factory=dict)
    """Named ports of a Pod's containers."""


def allowed(policies: list[Object], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Whether policies at both ends let `source` connect to this port of `target`."""
    return not blocked(policies, source, target, port, protocol)


def blocked(policies: list[Object], source: End, target: End, port: int, protocol: str = "TCP") -> str:
    """Which end's policies do not allow the connection; empty if both do."""
    return blocked_at("egress", policies, source, target, port, protocol) or blocked_at(
        "ingress", policies, source, target, port, protocol
    )


def blocked_at(
    direction: str, policies: list[Object], source: End, target: End, port: int, protocol: str = "TCP"
) -> str:
    """The policies of one end that do not allow the connection; empty if they do."""
    subject, other = (source, target) if direction == "egress" else (target, source)
    if subject.address:
        return ""  # not ours to restrict
    mine = selecting(policies, subject, direction)
    if not mine or any(
        _rule_allows(rule, direction, policy, other, target, port, protocol)
        for policy in mine
        for rule in policy["spec"].get(direction) or []
    ):
        return ""
    names = ", ".join(sorted(policy["metadata"]["name"] for policy in mine))
    return f"{direction} of {subject.name} (NetworkPolicies {names} in {subject.namespace})"


def selecting(policies: list[Object], subject: End, direction: str) -> list[Object]:
    """Policies of a direction that select this Pod."""
    return [
        policy
        for policy in policies
        if policy["metadata"].get("namespace", "default") == subject.namespace
        and direction.capitalize() in _types(policy["spec"])
        and matches(policy["spec"].get("podSelector"), subject.labels)
    ]


def _types(spec: Object) -> list[str]:
    types: list[str] = spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]
    return types


def _rule_allows(
    rule: Object, direction: str, policy: Object, other: End, target: End, port: int, protocol: str
) -> bool:
    ports = rule.get("ports")
    if ports and not any(_port_matches(each, target, port, protocol) for each in ports):
        return False
    peers = rule.get("to" if direction == "egress" else "from")
    return not peers or any(_is_peer(peer, policy, other) for peer in peers)


def _port_matches(each: Object, target: End, port: int, protocol: str) -> bool:
    if each.get("protocol", "TCP") != protocol:
        return False
    first: int | str | None = each.get("port")
    if first is None:
        return True
    if isinstance(first, str) and not first.isdigit():
        return target.ports.get(first) == port
    return int(first) <= port <= int(each.get("endPort") or first)


def _is_peer(peer: Object, policy: Object, other: End) -> bool:
    if "ipBlock" in peer:
        if not other.address:
            return False  # whether a block covers Pods' addresses as well is the network's affair
        address = ipaddress.ip_address(other.address)
        inside = [_contains(cidr, address) for cidr in peer["ipBlock"].get("except") or []]
        return _contains(peer["ipBlock"]["cidr"], address) and not any(inside)
    if other.address:
        return False
    spaces = peer.get("namespaceSelector")
    if spaces is None:
        in_space = other.namespace == policy["metadata"].get("namespace", "default")
    else:
        in_space = matches(spaces, {"kubernetes.io/metadata.name": other.namespace})
    return in_space and matches(peer.get("podSelector"), other.labels)


def _contains(cidr: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    network = ipaddress.ip_network(cidr, strict=False)
    return network.version == address.version and address in network


def matches(selector: Object | None, labels: dict[str, str]) -> bool:
    """Whether a label selector selects these labels; an empty one selects everything."""
    selector = selector or {}
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for rule in selector.get("matchExpressions") or []:
        present, values = rule["key"] in labels, rule.get("values") or []
        good = {
            "In": labels.get(rule["key"]) in values,
            "NotIn": labels.get(rule["key"]) not in values,
            "Exists": present,
            "DoesNotExist": not present,
        }[rule["operator"]]
        if not good:
            return False
    return True
