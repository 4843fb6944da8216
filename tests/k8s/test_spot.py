"""A training whose workers are on nodes that the cloud takes back: who is placed where, and what holds whom."""

import shlex

import pytest
import tyro

from cluster.worker_range import with_range
from tests.k8s import affinity, disruption, placement
from tests.k8s.built import Built, built
from tests.k8s.conftest import environment, needs_kustomize
from tests.k8s.manifests import OVERLAYS, Object, cluster_spec, find, rendered
from vgg.recipes.registry import RECIPES
from vgg.train import TrainOptions


def everything() -> list[Object]:
    return [*rendered("paper"), *rendered("paper/spot")]


def pods() -> dict[str, Built]:
    return {pod.where: pod for pod in built(everything())}


@needs_kustomize
@pytest.mark.parametrize("cloud", disruption.SPOT)
@pytest.mark.parametrize("tainted", [True, False])
def test_every_cloud_places_it(cloud, tainted):
    """With this cloud's label, and with or without a taint on its spot nodes."""
    key, value = disruption.SPOT[cloud]
    where = environment("paper/spot")
    spot = next(pool for pool in where["nodes"] if pool["name"] == "spot")
    spot["labels"] = {key: value}
    spot["taints"] = [disruption.GPU_TAINT]
    if tainted:
        spot["taints"].append({"key": key, "value": value, "effect": "NoSchedule"})
    assert list(placement.problems(list(pods().values()), everything(), where)) == []
    spot["labels"] = {"example.com/spot": "true"}  # a label that nobody knows
    assert list(placement.problems(list(pods().values()), everything(), where)) != []


@needs_kustomize
def test_only_its_workers_are_there():
    """Head, servers and fixed workers are on no spot node, and a training's head is held by its budget."""
    found = pods()
    job = "RayJob/paper-d-spot"
    assert disruption.lands_on_spot(found[f"{job} workers"]) == sorted(disruption.SPOT)
    for overlay in OVERLAYS:
        for pod in built([*rendered(overlay), *rendered(f"{overlay}/job")]):
            if pod.ray is not None or pod.owner["kind"] == "StatefulSet":
                assert disruption.lands_on_spot(pod) == [], pod.where
    assert disruption.lands_on_spot(found[f"{job} head"]) == []
    budget = find(rendered("paper/spot"), "PodDisruptionBudget")
    assert budget["spec"]["minAvailable"] == 1
    chosen = [where for where, pod in found.items() if disruption._selects(budget, pod)]
    assert chosen == [f"{job} head"]


@needs_kustomize
def test_training_takes_the_range():
    """The command reads the entrypoint, and its bounds are the group's."""
    job = find(rendered("paper/spot"), "RayJob")
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "vgg.train"]
    run = tyro.extras.overridable_config_cli(
        {name: (text, TrainOptions(name, recipe)) for name, (text, recipe) in RECIPES.items()},
        args=with_range(words[3:]),
    )
    (group,) = cluster_spec(job)["workerGroupSpecs"]
    gpus = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert run.layout.is_range
    assert run.layout.fewest_workers == gpus * group["minReplicas"]
    assert run.layout.workers == gpus * group["maxReplicas"]
    assert run.out == f"s3://runs/{job['metadata']['name']}"
    assert run.recipe.train.checkpoint_seconds == 300


@pytest.mark.parametrize(
    ("operator", "value", "fits"),
    [
        ("In", "spot", True),
        ("In", "on-demand", False),
        ("In", None, False),
        ("NotIn", "spot", False),
        ("NotIn", "on-demand", True),
        ("NotIn", None, True),
        ("Exists", "on-demand", True),
        ("Exists", None, False),
        ("DoesNotExist", "spot", False),
        ("DoesNotExist", None, True),
    ],
)
def test_affinity_as_kubernetes_defines_it(operator, value, fits):
    """By the table of operators of its documentation (assign-pod-node)."""
    expression = {"key": "kind", "operator": operator, "values": ["spot"]}
    terms = [{"matchExpressions": [expression]}]
    spec = {"affinity": {"nodeAffinity": {affinity.REQUIRED: {"nodeSelectorTerms": terms}}}}
    labels = {} if value is None else {"kind": value}
    assert (affinity.refusal(spec, labels, []) == "") == fits
    terms.append({"matchExpressions": [{"key": "other", "operator": "Exists"}]})
    assert affinity.refusal(spec, {**labels, "other": "1"}, []) == "", "one term is enough"
    terms.pop()
    terms[0]["matchExpressions"].append({"key": "other", "operator": "Exists"})
    assert affinity.refusal(spec, labels, []) != "", "of a term all must hold"
