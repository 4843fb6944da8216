"""Which nodes the scheduler allows a Pod by their labels and taints.

https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/: of the terms of a node affinity one
must hold, of a term's expressions all.
"""

from tests.k8s.manifests import Object

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def refusal(spec: Object, labels: dict[str, str], taints: list[Object]) -> str:
    """Why a Pod of this spec cannot be placed on a node with these labels and taints; empty if it can."""
    for taint in taints:
        hard = taint["effect"] in ("NoSchedule", "NoExecute")
        if hard and not any(_tolerates(t, taint) for t in spec.get("tolerations") or []):
            return f"spec.tolerations has none for taint {taint['key']}={taint.get('value')}:{taint['effect']}"
    for key, value in (spec.get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            return f"spec.nodeSelector wants {key}={value}"
    affinity = spec.get("affinity") or {}
    terms = ((affinity.get("nodeAffinity") or {}).get(REQUIRED) or {}).get("nodeSelectorTerms")
    if terms is not None and not any(_holds(term, labels) for term in terms):
        return f"spec.affinity.nodeAffinity wants {[_told(term) for term in terms]}"
    if any(REQUIRED in (affinity.get(kind) or {}) for kind in ("podAffinity", "podAntiAffinity")):
        return "spec.affinity has a required term about Pods, which this evaluator does not know"
    return ""


def _holds(term: Object, labels: dict[str, str]) -> bool:
    expressions = term.get("matchExpressions") or []
    return bool(expressions) and all(_matches(each, labels) for each in expressions)


def _matches(expression: Object, labels: dict[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or []
    return {
        "In": value in values,
        "NotIn": value not in values,  # as of a node without the label
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }[expression["operator"]]


def _told(term: Object) -> str:
    return " and ".join(f"{e['key']} {e['operator']} {e.get('values')}" for e in term["matchExpressions"])


def _tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", "")
