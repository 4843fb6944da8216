"""Who reaches whom: NetworkPolicies read as a network plugin would."""

from collections.abc import Iterator

from tests.k8s.manifests import Object

CLOSED_PORTS = {6379, 8265, 10001}
"""Of a Ray head: GCS, dashboard with jobs API, client. Each runs what it is sent."""


def access(objects: list[Object]) -> Iterator[str]:
    """Who reaches Ray's ports: policies are read as a network plugin would."""
    policies = [o for o in objects if o["kind"] == "NetworkPolicy"]
    deny = [p for p in policies if p["spec"].get("podSelector") == {} and "ingress" not in p["spec"]]
    if not any(set(p["spec"].get("policyTypes", ())) == {"Ingress", "Egress"} for p in deny):
        yield "nothing is closed by default"
    node, head = {"ray.io/is-ray-node": "yes"}, {"ray.io/node-type": "head"}
    strangers = {"app": "stranger"}
    roles = {
        "stranger": (strangers, set()),
        "another Ray node": ({**node, "ray.io/node-type": "worker"}, CLOSED_PORTS),
        "the submitter": ({"vgg/role": "submitter"}, {8265}),
        "a Ray client": ({"vgg/role": "ray-client"}, {8265, 10001}),
        "MLflow": ({"app.kubernetes.io/name": "mlflow", "vgg/stores": "true"}, set()),
    }
    for who, (labels, wanted) in roles.items():
        reached = {port for port in CLOSED_PORTS if _reaches(policies, {**node, **head}, labels, "vgg", port)}
        if reached != wanted:
            yield f"{who} reaches {sorted(reached)} of Ray's head, not {sorted(wanted)}"
    operator = {"app.kubernetes.io/component": "kuberay-operator"}
    for space, wanted in {"kuberay-operator": {8265}, "elsewhere": set()}.items():
        reached = {port for port in CLOSED_PORTS if _reaches(policies, {**node, **head}, operator, space, port)}
        if reached != wanted:
            yield f"an operator of namespace {space} reaches {sorted(reached)} of Ray's head"
    stores = [("mlflow", 5000, node, True), ("mlflow", 5000, strangers, False)]
    here = {o["metadata"]["name"] for o in objects if o["kind"] == "StatefulSet"}
    if "postgres" in here:
        stores += [("postgres", 5432, node, False), ("postgres", 5432, {"vgg/stores": "true"}, True)]
    if "s3" in here:
        stores += [("s3", 8333, node, True), ("s3", 8333, strangers, False)]
    for name, port, labels, wanted_access in stores:
        if _reaches(policies, {"app.kubernetes.io/name": name}, labels, "vgg", port) != wanted_access:
            yield f"{labels} {'does not reach' if wanted_access else 'reaches'} {name}:{port}"


def _reaches(
    policies: list[Object], target: dict[str, str], source: dict[str, str], space: str, port: int
) -> bool:
    """Whether ingress to `target` lets `source` in at this port; in this namespace, egress of `source` too."""

    def allowed(direction: str, subject: dict[str, str], other: dict[str, str], other_space: str) -> bool:
        mine = [
            p["spec"]
            for p in policies
            if direction.capitalize() in p["spec"].get("policyTypes", ["Ingress"])
            and matches(p["spec"]["podSelector"], subject)
        ]
        if not mine:
            return True
        for spec in mine:
            for rule in spec.get(direction) or []:
                ports = {each.get("port") for each in rule.get("ports") or []}
                peers = rule.get("from" if direction == "ingress" else "to")
                if ports and port not in ports:
                    continue
                if peers is None or any(_is_peer(peer, other, other_space) for peer in peers):
                    return True
        return False

    inward = allowed("ingress", target, source, space)
    return inward and (space != "vgg" or allowed("egress", source, target, "vgg"))


def _is_peer(peer: Object, labels: dict[str, str], space: str) -> bool:
    if "ipBlock" in peer:
        return False  # addresses outside of the cluster
    spaces = peer.get("namespaceSelector")
    in_space = space == "vgg" if spaces is None else matches(spaces, {"kubernetes.io/metadata.name": space})
    return in_space and matches(peer.get("podSelector"), labels)


def matches(selector: Object | None, labels: dict[str, str]) -> bool:
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
