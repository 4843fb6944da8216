"""Mistakes that the manifests once had, each held here by what must be true instead."""

import ipaddress
import re
import shutil

import pytest
import yaml

from tests.conftest import ROOT
from tests.k8s import access, checks, conversations, isolation, placement
from tests.k8s.built import Built, built
from tests.k8s.conftest import BROUGHT, environment, needs_kustomize
from tests.k8s.manifests import K8S, OVERLAYS, Object, cluster_spec, find, kustomize, load, rendered
from tests.k8s.pod import quantity
from tests.k8s.policies import End, allowed
from tests.k8s.programs import World

DOCUMENT = (ROOT / "docs/kubernetes.md").read_text()
NODE_LOST_SECONDS = 40 + 30
"""Until a node that is gone is marked so (the node controller's grace period), and the Pods' toleration."""
HEAD_START_SECONDS = 600
"""A new head: the old Pod's object removed, an image pulled, Ray started, the submitter's two attempts."""


def world(overlay: str, *beside: str, secrets: str = "") -> World:
    """An overlay's objects, and those that are applied beside it."""
    objects = [*rendered(overlay), BROUGHT, *(o for each in beside for o in rendered(f"{overlay}/{each}"))]
    return World([o for o in objects if o.get("apiVersion")], checks.secret_values(secrets) if secrets else {})


def running(objects: list[Object]) -> list[Built]:
    """The Pods with the interactive cluster awake."""
    awake = [
        o if o["kind"] != "RayCluster" else {**o, "spec": {**o["spec"], "suspend": False}} for o in objects
    ]
    return built(awake)


@needs_kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_interactive_cluster_leaves_room_for_the_job(overlay):
    """What is shipped fits with any job; on GPUs, because the interactive cluster is suspended, and only so."""
    targets = ["job", "evaluate", *(["pack"] if overlay != "local-cpu" else [])]
    for beside in targets:
        both = world(overlay, beside)
        assert list(placement.problems(built(both.objects), both.objects, environment(overlay))) == [], beside
        assert list(placement.quota_problems(built(both.objects), both.objects)) == [], beside
    alone = world(overlay)
    assert list(placement.problems(running(alone.objects), alone.objects, environment(overlay))) == []
    both = world(overlay, "job")
    crowded = list(placement.problems(running(both.objects), both.objects, environment(overlay)))
    assert bool(crowded) == (overlay != "local-cpu")
    batch = find(rendered(f"{overlay}/job"), "RayJob")
    assert batch["spec"]["preRunningDeadlineSeconds"] <= 3600, "a job without room says so within the hour"
    assert "suspend" not in cluster_spec(batch), "only the interactive cluster is suspended"


def with_components(tmp_path, overlay: str, **components: list[str]) -> dict[str, list[Object]]:
    """Renderings of an overlay with components added: to itself (`platform`) and to folders in it."""
    k8s = tmp_path / "k8s"
    shutil.copytree(K8S, k8s)
    folder = k8s / "overlays" / overlay
    for where, names in components.items():
        place = folder if where == "platform" else folder / where
        (content,) = load((place / "kustomization.yaml").read_text())
        up = "../../components/" if where == "platform" else "../../../components/"
        content["components"] = [*content.get("components", []), *(up + name for name in names)]
        (place / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return {where: load(kustomize(folder if where == "platform" else folder / where)) for where in components}


@needs_kustomize
def test_kueue_decides(tmp_path):
    """A training displaces the interactive cluster; the queue has room for one, and no more than the nodes."""
    made = with_components(tmp_path, "paper", platform=["kueue"], job=["kueue-job"])
    platform, batch = made["platform"], find(made["job"], "RayJob")
    queue = find(platform, "ClusterQueue")["spec"]
    assert queue["preemption"]["withinClusterQueue"] == "LowerPriority"
    local = find(platform, "LocalQueue")
    assert local["spec"]["clusterQueue"] == find(platform, "ClusterQueue")["metadata"]["name"]
    assert queue["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "vgg"}
    assert (
        queue["resourceGroups"][0]["flavors"][0]["name"] == find(platform, "ResourceFlavor")["metadata"]["name"]
    )
    values = {o["metadata"]["name"]: o["value"] for o in platform if o["kind"] == "WorkloadPriorityClass"}
    label = "kueue.x-k8s.io/priority-class"
    interactive = values[find(platform, "RayCluster")["metadata"]["labels"][label]]
    training = values[batch["metadata"]["labels"][label]]
    assert interactive < training < max(values.values())
    flavor = queue["resourceGroups"][0]["flavors"][0]["resources"]
    quota = {each["name"]: quantity(each["nominalQuota"]) for each in flavor}
    nodes: dict[str, float] = {}
    for node in placement.nodes_of(environment("paper")):
        for name, amount in node.free.items():
            nodes[name] = nodes.get(name, 0) + amount
    needed: dict[str, float] = {}
    for pod in built([batch]):
        for name, amount in placement.requests(pod).items():
            needed[name] = needed.get(name, 0) + pod.count * amount
    for name, amount in quota.items():
        assert needed[name] <= amount <= nodes[name], name


@needs_kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_names_are_resolved_however_the_cluster_does_it(overlay):
    policies = [o for o in rendered(overlay) if o["kind"] == "NetworkPolicy"]
    for pod in built(world(overlay, "job").objects):
        for resolver in conversations.RESOLVERS:
            for protocol in ("UDP", "TCP"):
                assert allowed(policies, conversations.end(pod), resolver, 53, protocol), (pod.where, resolver)


def test_lost_head_is_waited_for_longer_than_it_takes():
    """KubeRay never retries JobStatusCheckTimeoutExceeded (rayjob_controller.go, checkBackoffLimit…)."""
    (operator,) = load((K8S / "operator/kustomization.yaml").read_text())
    (patch,) = operator["patches"]
    assert patch["target"] == {"kind": "Deployment", "name": "kuberay-operator"}
    ((operation,),) = load(patch["patch"])
    env = {each["name"]: each["value"] for each in operation["value"]}
    assert operation["path"] == "/spec/template/spec/containers/0/env"
    assert int(env["RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS"]) >= NODE_LOST_SECONDS + HEAD_START_SECONDS
    assert "JobStatusCheckTimeoutExceeded" in DOCUMENT
    assert re.search(r"(?i)rotate the token", DOCUMENT)


@needs_kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_researcher_is_no_administrator(overlay, made_secrets, managed_secrets):
    """He reaches the Secrets of trainings, by a Pod too, and no other; and no server's loopback."""
    secrets = managed_secrets if overlay == "paper" else made_secrets
    here = world(overlay, "job", secrets=secrets)
    found = access.reach(here, ("Group", "vgg-researchers"))
    assert set(found.secrets) == {("vgg", "ray-token"), ("vgg", "mlflow-login"), ("vgg", "s3-ray")}
    assert found.admin == []
    for o in here.objects:  # as it was: everything in one namespace
        if o["metadata"].get("namespace") == "vgg-services":
            o["metadata"]["namespace"] = "vgg"
    together = World(here.objects, {("vgg", name): keys for (_, name), keys in here.secrets.items()})
    assert ("vgg", "mlflow-server") in access.reach(together, ("Group", "vgg-researchers")).secrets


@needs_kustomize
def test_researchers_do_not_outrank_servers():
    (quota,) = [o for o in rendered("gpu") if o["kind"] == "ResourceQuota" and "scopeSelector" in o["spec"]]
    (term,) = quota["spec"]["scopeSelector"]["matchExpressions"]
    assert quota["metadata"]["namespace"] == "vgg"
    assert quota["spec"]["hard"] == {"pods": "0"}
    assert {"vgg-services", "system-cluster-critical", "system-node-critical"} <= set(term["values"])


@needs_kustomize
@pytest.mark.parametrize("overlay", ["gpu", "paper"])
@pytest.mark.parametrize("tainted", [True, False])
def test_tainted_pool_or_not(overlay, tainted):
    """Head, workers and packing meet on the pool of their claim, whether or not it has a taint."""
    where = environment(overlay)
    if not tainted:
        for pool in where["nodes"]:
            pool.pop("taints", None)
    for beside in ("job", "pack"):
        both = world(overlay, beside)
        assert list(placement.problems(built(both.objects), both.objects, where)) == []
    job = find(rendered(f"{overlay}/job"), "RayJob")
    gpu = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    for group in (cluster_spec(job)["headGroupSpec"], *cluster_spec(job)["workerGroupSpecs"]):
        assert gpu in group["template"]["spec"]["tolerations"]


@needs_kustomize
def test_paper_reaches_named_ranges_only():
    policies = [o for o in rendered("paper") if o["kind"] == "NetworkPolicy"]
    blocks = [
        ipaddress.ip_network(peer["ipBlock"]["cidr"])
        for policy in policies
        for rule in policy["spec"].get("egress") or []
        for peer in rule.get("to") or []
        if "ipBlock" in peer
    ]
    assert blocks
    assert all(block.prefixlen >= isolation.WIDEST for block in blocks)
    for pod in built(world("paper", "job").objects):
        for address in ("10.0.0.1", "172.20.0.1", "192.168.1.1", "8.8.8.8", "169.254.169.254"):
            assert not allowed(policies, conversations.end(pod), End(address, address=address), 443)


def test_clean_up_leaves_other_teams_clusters():
    section = DOCUMENT.partition("## Clean up")[2].partition("\n## ")[0]
    commands = [line for line in section.splitlines() if line.startswith("    ")]
    assert commands
    assert not [line for line in commands if "k8s/operator" in line or " crd" in line]
    assert "every team" in section


def test_needs_are_said():
    for need in (
        "storage class",
        "pull-secret",
        "NetworkAttachmentDefinition",
        "Kueue 0.15",
        "KubeRay 1.7.0",
        "k8s/preflight.sh",
    ):
        assert need in DOCUMENT, need


@needs_kustomize
def test_pull_secret_reaches_every_pod(tmp_path):
    platform = with_components(tmp_path, "paper", platform=["pull-secret"])["platform"]
    accounts = {
        (o["metadata"]["namespace"], o["metadata"]["name"])
        for o in platform
        if o["kind"] == "ServiceAccount" and o.get("imagePullSecrets") == [{"name": "registry"}]
    }
    used = {
        (pod.namespace, pod.pod["spec"]["serviceAccountName"]) for pod in built(world("paper", "job").objects)
    }
    assert used <= accounts


@needs_kustomize
def test_volcano_names_its_queue(tmp_path):
    job = with_components(tmp_path, "paper", job=["volcano"])["job"]
    assert find(job, "RayJob")["metadata"]["labels"]["volcano.sh/queue-name"]


@needs_kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_disturbs_a_training(overlay):
    """Disruption budget, autoscalers' annotations and grace say the same: no eviction, and time to end."""
    here = world(overlay, "job")
    for pod in (pod for pod in running(here.objects) if pod.ray is not None):
        budgets = [
            o
            for o in here.objects
            if o["kind"] == "PodDisruptionBudget"
            and o["spec"]["selector"]["matchLabels"].items() <= pod.labels.items()
        ]
        (budget,) = budgets
        size = sum(p.count for p in running(here.objects) if p.owner is pod.owner and p.ray is not None)
        assert budget["spec"]["minAvailable"] == size or pod.owner["kind"] == "RayCluster"
        assert pod.pod["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
