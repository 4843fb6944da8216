"""Who may do what: what a subject of a RoleBinding reaches in the end, by the rights themselves and by what
they lead to.

Whoever may create a Pod in a namespace, or anything that makes one, may mount every Secret there and run as
every service account (https://kubernetes.io/docs/concepts/security/rbac-good-practices/#workload-creation).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.k8s.built import built
from tests.k8s.manifests import Object, label
from tests.k8s.programs import World, listeners

MAKERS = {
    *(("", kind) for kind in ("pods", "replicationcontrollers", "podtemplates")),
    *(("apps", kind) for kind in ("deployments", "statefulsets", "daemonsets", "replicasets")),
    *(("batch", kind) for kind in ("jobs", "cronjobs")),
    *(("ray.io", kind) for kind in ("rayclusters", "rayjobs", "rayservices", "raycronjobs")),
}
"""What makes Pods of a given form."""
ADMIN = {
    ("rbac.authorization.k8s.io", kind)
    for kind in ("roles", "rolebindings", "clusterroles", "clusterrolebindings")
}
GUARDS = {
    ("networking.k8s.io", "networkpolicies"),
    ("", "namespaces"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
}
"""What holds researchers in: to change it is an administrator's affair."""
WRITES = {"create", "update", "patch", "delete", "deletecollection", "*"}
EVERYBODY = ("system:authenticated", "system:unauthenticated", "system:anonymous", "system:serviceaccounts")


@dataclass
class Reach:
    """What somebody reaches."""

    secrets: dict[tuple[str, str], str] = field(default_factory=dict)
    """(namespace, name) -> how."""
    admin: list[str] = field(default_factory=list)
    """Rights that make him administrator, and how."""


def reach(world: World, subject: tuple[str, str]) -> Reach:
    """What (kind, name) reaches, through Pods and their service accounts too."""
    found, todo, seen = Reach(), [subject], set()
    while todo:
        who = todo.pop()
        if who in seen:
            continue
        seen.add(who)
        for space, rule, role in rules_of(world.objects, who):
            todo += _follow(world, found, space, rule, f"{role}, {'/'.join(rule['verbs'])}")
    return found


def rules_of(objects: list[Object], subject: tuple[str, str]) -> Iterator[tuple[str, Object, str]]:
    """(namespace, rule, role) of all Roles that are bound to a subject; '' is every namespace."""
    for binding in objects:
        if binding["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        space = binding["metadata"].get("namespace", "") if binding["kind"] == "RoleBinding" else ""
        subjects = {_key(each, space) for each in binding.get("subjects") or []}
        if subject not in subjects and not any(name in EVERYBODY for _, name in subjects):
            continue
        reference = binding["roleRef"]
        for o in objects:
            if (o["kind"], o["metadata"]["name"]) == (reference["kind"], reference["name"]) and (
                o["kind"] == "ClusterRole" or o["metadata"].get("namespace") == space
            ):
                yield from ((space, rule, label(o)) for rule in o.get("rules") or [])


def _key(subject: Object, space: str) -> tuple[str, str]:
    name = subject["name"]
    if subject["kind"] == "ServiceAccount":
        name = f"{subject.get('namespace', space)}/{name}"
    return subject["kind"], name


def _follow(world: World, found: Reach, space: str, rule: Object, how: str) -> list[tuple[str, str]]:
    groups, resources = rule.get("apiGroups") or [""], rule.get("resources") or []
    verbs, names = set(rule["verbs"]), rule.get("resourceNames")
    what = {(group, resource) for group in groups for resource in resources}
    every = "*" in resources or "*" in groups
    if every or (what & ADMIN and verbs & WRITES) or verbs & {"escalate", "bind", "impersonate", "*"}:
        found.admin.append(f"{how} of {sorted(what)} in {space or 'every namespace'}")
    if what & GUARDS and verbs & WRITES:
        found.admin.append(f"{how} of {sorted(what & GUARDS)}")
    if ("", "secrets") in what or every:
        if verbs & {"list", "watch", "*"}:
            names = None  # a list shows all that it lists
        for namespace, name in world.secrets:
            if (
                space in ("", namespace)
                and (names is None or name in names)
                and verbs & {"get", "list", "watch", "*"}
            ):
                found.secrets.setdefault((namespace, name), how)
    follows = []
    if (what & MAKERS or every) and verbs & (WRITES - {"delete", "deletecollection"}):
        for namespace, name in world.secrets:
            if space in ("", namespace):
                found.secrets.setdefault((namespace, name), f"{how}: a Pod that mounts it")
        accounts = [o["metadata"] for o in world.objects if o["kind"] == "ServiceAccount"]
        follows = [
            ("ServiceAccount", f"{a['namespace']}/{a['name']}")
            for a in accounts
            if space in ("", a.get("namespace"))
        ]
    enters = {("", "pods/exec"), ("", "pods/attach"), ("", "pods/ephemeralcontainers")} & what
    if enters and verbs & {"create", "get", "update", "patch", "*"}:
        for namespace, name in world.secrets:
            if space in ("", namespace) and _read_by(world, space, names, name):
                found.secrets.setdefault((namespace, name), f"{how}: a shell in a Pod that reads it")
    if ("", "pods/portforward") in what and verbs & {"create", "get", "*"}:
        found.admin += [f"{how}: {text}" for text in _unguarded(world, space, names)]
    return follows


def _read_by(world: World, space: str, names: list[str] | None, secret: str) -> bool:
    return any(
        f"'{secret}'" in str(pod.pod["spec"])
        for pod in built(world.objects)
        if space in ("", pod.namespace) and (names is None or _named(pod.owner, names))
    )


def _named(owner: Object, names: list[str]) -> bool:
    return any(name.startswith(owner["metadata"]["name"]) for name in names)


def _unguarded(world: World, space: str, names: list[str] | None) -> Iterator[str]:
    """Ports on loopback, where servers ask for no login: a forwarded port reaches them."""
    for pod in built(world.objects):
        if space not in ("", pod.namespace) or (names is not None and not _named(pod.owner, names)):
            continue
        for port, host in listeners(world, pod).items():
            if host.startswith("127."):
                yield f"a forwarded port reaches {pod.where}:{port} on loopback, which asks for no login"


def may(world: World, subject: tuple[str, str], verb: str, what: str, space: str, name: str = "") -> bool:
    """Whether a subject has a right, as `kubectl auth can-i VERB group/resource` says."""
    group, _, resource = what.rpartition(":")
    return any(
        where in ("", space)
        and group in (rule.get("apiGroups") or [""])
        and resource in (rule.get("resources") or [])
        and verb in rule["verbs"]
        and (not rule.get("resourceNames") or name in rule["resourceNames"])
        for where, rule, _ in rules_of(world.objects, subject)
    )


def _lacking(world: World) -> Iterator[str]:
    """What a researcher must be able to do, by docs/kubernetes.md, and may not."""
    who = ("Group", "vgg-researchers")
    needs = [(verb, "ray.io:rayjobs", "vgg", "") for verb in ("create", "get", "watch", "patch", "delete")]
    needs += [("patch", "ray.io:rayclusters", "vgg", ""), ("create", "batch:jobs", "vgg", "")]
    needs += [("create", "policy:poddisruptionbudgets", "vgg", ""), ("get", "pods/log", "vgg", "")]
    needs += [
        ("create", "pods/portforward", "vgg", ""),
        ("get", "pods", "vgg", ""),
        ("list", "services", "vgg", ""),
    ]
    needs += [("get", "secrets", "vgg", name) for name in ("ray-token", "mlflow-login")]
    needs += [
        ("get", "pods", "vgg-services", "mlflow-0"),
        ("create", "pods/portforward", "vgg-services", "mlflow-0"),
    ]
    for verb, what, space, name in needs:
        if not may(world, who, verb, what, space, name):
            yield f"Group vgg-researchers may not {verb} {what} {name} in {space} (RoleBinding or Role rules)"


def problems(world: World) -> Iterator[str]:
    """What somebody reaches beyond what trainings need, what researchers lack, and bindings to everybody."""
    if any(o["kind"] == "RoleBinding" for o in world.objects):
        yield from _lacking(world)
    ours = {
        (pod.namespace, name)
        for pod in built(world.objects)
        if pod.namespace == "vgg"
        for namespace, name in world.secrets
        if namespace == "vgg" and f"'{name}'" in str(pod.pod["spec"])
    }
    subjects = set()
    for o in world.objects:
        if o["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        reference = (o["roleRef"]["kind"], o["roleRef"]["name"])
        if reference not in {(each["kind"], each["metadata"]["name"]) for each in world.objects}:
            yield f"{label(o)}: roleRef {'/'.join(reference)} is not among the objects"
        if o["kind"] == "ClusterRoleBinding":
            yield f"{label(o)}: roleRef holds in every namespace"
        for each in o.get("subjects") or []:
            subjects.add(_key(each, o["metadata"].get("namespace", "")))
            if each["kind"] == "ServiceAccount":
                yield f"{label(o)}: subjects has ServiceAccount {each['name']}; no Pod here uses the API"
            if each["name"].startswith(EVERYBODY) or each["name"] in ("*", "default"):
                yield f"{label(o)}: subjects has {each['kind']} {each['name']}, which is everybody"
    for subject in sorted(subjects):
        found = reach(world, subject)
        for (space, name), how in found.secrets.items():
            if (space, name) not in ours:
                yield f"{subject[0]} {subject[1]} reaches Secret {name} of {space} by {how}"
        yield from (f"{subject[0]} {subject[1]} becomes administrator by {how}" for how in found.admin)
    for o in world.objects:
        for rule in o.get("rules") or [] if o["kind"] in ("Role", "ClusterRole") else []:
            if "*" in [*(rule.get("apiGroups") or []), *(rule.get("resources") or []), *rule["verbs"]]:
                yield f"{label(o)} grants everything of something"
            if "secrets" in (rule.get("resources") or []) and not rule.get("resourceNames"):
                yield f"{label(o)} grants every Secret"
    spaces = {namespace for namespace, _ in world.secrets}
    for space in spaces - {o["metadata"]["name"] for o in world.objects if o["kind"] == "Namespace"}:
        yield f"Secrets are for namespace {space}, which is not among the objects"
