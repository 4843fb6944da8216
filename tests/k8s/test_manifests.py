"""Every overlay, rendered and checked as far as that goes without a cluster."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import tyro
import yaml

from tests.conftest import ROOT
from tests.k8s.checks import secret_values
from tests.k8s.conftest import needs_kustomize
from tests.k8s.manifests import (
    K8S,
    OVERLAYS,
    TARGETS,
    cluster_spec,
    containers,
    find,
    kustomize,
    load,
    pods,
    rendered,
)
from tests.k8s.pod import quantity
from vgg.recipes.registry import RECIPES
from vgg.train import TrainOptions

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
REGISTRY = "registry.example.com/"
# overlay: worker Pods, GPUs of each, processes of a training, where the image comes from
PROMISED = {"local-cpu": (2, 0, 2, ""), "gpu": (1, 8, 8, REGISTRY), "paper": (4, 8, 32, REGISTRY)}


@needs_kustomize
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_found(target, findings):
    assert findings(target, rendered(target)) == []


@needs_kustomize
def test_kuberay_schemas(kuberay_schemas, findings):
    """That KubeRay's schemas took part above."""
    if kuberay_schemas is None:
        pytest.skip("KubeRay's schemas are absent: ../shared/data/kuberay-1.7.0 (set VGG_SHARED_DATA)")
    objects = rendered("gpu")
    find(objects, "RayCluster")["spec"]["headGroupSpec"]["rayStartParms"] = {}
    assert any("rayStartParms" in finding for finding in findings("gpu", objects))


@needs_kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_promises(overlay):
    """What an overlay is for is still there after every patch."""
    workers, gpus, processes, registry = PROMISED[overlay]
    platform, job = rendered(overlay), rendered(f"{overlay}/job")
    cluster, batch = find(platform, "RayCluster"), find(job, "RayJob")
    for copy in (batch, find(rendered(f"{overlay}/evaluate"), "RayJob")):
        copied = json.dumps(cluster_spec(copy)).replace(
            f'"vgg/job": "{copy["metadata"]["name"]}"', '"vgg/job": "interactive"'
        )
        of_its_own = {key: value for key, value in cluster_spec(cluster).items() if key != "suspend"}
        assert json.loads(copied) == of_its_own, "the batch job's cluster is the interactive one's copy"
    (group,) = cluster["spec"]["workerGroupSpecs"]
    assert group["replicas"] == workers
    container = group["template"]["spec"]["containers"][0]
    limits = container["resources"]["limits"]
    assert float(limits.get("nvidia.com/gpu", 0)) == gpus
    images = {c["image"] for _, pod in pods([*platform, *job]) for c in containers(pod)}
    ours = {image for image in images if "vgg-study" in image}
    assert ours == {f"{registry}vgg-study:{VERSION}", f"{registry}vgg-study-mlflow:{VERSION}"}

    words = shlex.split(batch["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "vgg.train"]
    run = tyro.extras.overridable_config_cli(
        {name: (text, TrainOptions(name, recipe)) for name, (text, recipe) in RECIPES.items()}, args=words[3:]
    )
    assert run.recipe == RECIPES[words[3]][1], "the paper's recipe, unchanged"
    assert run.layout.workers == processes
    per_pod = processes // workers
    cpus = quantity(group["rayStartParams"].get("num-cpus", limits["cpu"]))
    assert (run.layout.cpus_per_worker or 1) * per_pod <= cpus, "Ray would find no room"
    assert (run.layout.device == "gpu") == (gpus > 0)
    # A retry is a new cluster, and finds the run by this name alone.
    assert run.out == f"s3://runs/{batch['metadata']['name']}"
    assert batch["spec"]["backoffLimit"] > 0
    assert run.data.startswith("/data/")


@needs_kustomize
def test_namespace_is_restricted():
    for overlay in OVERLAYS:
        for name in ("vgg", "vgg-services"):
            labels = find(rendered(overlay), "Namespace", name)["metadata"]["labels"]
            assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@needs_kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_secret_is_rendered(overlay):
    for target in (each for each in TARGETS if each.startswith(overlay)):
        assert not [o for o in rendered(target) if o["kind"] == "Secret"]


@needs_kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_is_made_in_vain(overlay, made_secrets, managed_secrets):
    """Every key of the Secrets is read by some Pod (that Pods find theirs is among the checks)."""
    made = secret_values(managed_secrets if overlay == "paper" else made_secrets)
    everything = [*rendered(overlay), *rendered(f"{overlay}/job")]
    for (namespace, name), keys in made.items():
        text = json.dumps([o for o in everything if o["metadata"].get("namespace") == namespace])
        assert f'"{name}"' in text, (namespace, name)
        whole = name in ("ray-token", "postgres", "s3-config")  # read by KubeRay, or mounted as files
        assert whole or all(f'"key": "{key}"' in text for key in keys), (name, keys)


def test_secrets_are_random():
    texts = [
        subprocess.run(["bash", str(K8S / "secrets.sh")], capture_output=True, text=True, check=True)
        for _ in "ab"
    ]
    first, second = ({name: values for (_, name), values in secret_values(t.stdout).items()} for t in texts)
    assert first.keys() == second.keys()
    for name in ("ray-token", "postgres", "mlflow-server", "mlflow-login", "s3-ray", "s3-mlflow", "s3-admin"):
        assert first[name] != second[name], name
    assert len(first["ray-token"]["auth_token"]) == 64
    assert first["postgres"]["password"] in first["mlflow-server"]["uri"]
    identities = json.loads(first["s3-config"]["s3.json"])["identities"]
    keys = {each["name"]: each["credentials"][0]["accessKey"] for each in identities}
    assert keys == {name: first[f"s3-{name}"]["access-key"] for name in ("admin", "mlflow", "ray")}
    assert [each["name"] for each in identities if "Admin" in each["actions"]] == ["admin"]


SOURCES = sorted(K8S.rglob("*.yaml"))


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(K8S)))
def test_sources(file):
    """No key twice; every patch, JSON6902: a strategic merge would replace a RayCluster's lists as a whole."""
    for document in load(file.read_text()):
        for patch in document.get("patches", []) if isinstance(document, dict) else []:
            text = patch.get("patch") or (file.parent / patch["path"]).read_text()
            (operations,) = load(text)
            assert isinstance(operations, list), f"{file}: a strategic-merge patch"


def test_duplicate_keys_are_refused():
    with pytest.raises(yaml.YAMLError, match="twice"):
        load("spec:\n  replicas: 1\n  replicas: 2\n")
    assert load("a: &a {x: 1}\nb: {<<: *a, x: 2}\n") == [{"a": {"x": 1}, "b": {"x": 2}}]


def test_versions_agree():
    """The server's MLflow is the trainings' one, and the schema Job is named for it."""
    locks = [(ROOT / file).read_text() for file in ("requirements.lock", "k8s/mlflow/requirements.lock")]
    pinned = [version for lock in locks for version in re.findall(r"^mlflow==(.+)$", lock, re.MULTILINE)]
    assert len(pinned) == 2
    assert pinned[0] == pinned[1]
    dashed = pinned[0].replace(".", "-")
    assert f"name: mlflow-schema-{dashed}\n" in (K8S / "mlflow/schema.yaml").read_text()
    for file in ("requirements.lock", "k8s/mlflow/requirements.lock"):
        lines = (ROOT / file).read_text().split()
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^ /]+", line) for line in lines), "names and versions only"


@needs_kustomize
def test_components(tmp_path, findings):
    """All of them in the largest overlay, where their comments say they go."""
    k8s = tmp_path / "k8s"
    shutil.copytree(K8S, k8s)
    overlay = k8s / "overlays/paper"
    for where, components in {
        ".": ["../../components/kueue", "../../components/monitoring"],
        "ray": ["../../../components/nvme", "../../../components/rdma"],
        "job": ["../../../components/kueue-job"],
    }.items():
        file = overlay / where / "kustomization.yaml"
        (content,) = load(file.read_text())
        content["components"] = [*content.get("components", []), *components]
        file.write_text(yaml.safe_dump(content))
    platform, job = load(kustomize(overlay)), load(kustomize(overlay / "job"))
    assert findings("paper", platform) == []
    assert findings("paper/job", job, platform) == []

    for objects, kind in ((platform, "RayCluster"), (job, "RayJob")):
        ray = find(objects, kind)
        assert (
            ray["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
            == find(platform, "LocalQueue")["metadata"]["name"]
        )
        (group,) = cluster_spec(ray)["workerGroupSpecs"]
        spec = group["template"]["spec"]
        assert spec["containers"][0]["resources"]["limits"]["rdma/rdma_shared_device_a"] == "1"
        mounted = {mount["mountPath"]: mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        local = volumes[mounted["/data"]]["ephemeral"]["volumeClaimTemplate"]["spec"]
        assert local["storageClassName"] == "local-nvme"
        assert volumes["shared"]["persistentVolumeClaim"] == {"claimName": "data", "readOnly": True}
        assert spec["initContainers"][0]["image"] == spec["containers"][0]["image"]
        head = cluster_spec(ray)["headGroupSpec"]["template"]["spec"]
        assert {"name": "data", "persistentVolumeClaim": {"claimName": "data"}} in head["volumes"]

    # A queue that does not list a resource, or has less of it than one training, admits nothing, ever.
    resources = find(platform, "ClusterQueue")["spec"]["resourceGroups"][0]
    quota = {each["name"]: quantity(each["nominalQuota"]) for each in resources["flavors"][0]["resources"]}
    assert list(quota) == resources["coveredResources"]
    needed: dict[str, float] = {}
    for where, pod in pods([find(job, "RayJob")]):
        count = 4 if "workers" in where else 1
        for container in pod["spec"]["containers"]:
            for name, amount in container["resources"]["requests"].items():
                needed[name] = needed.get(name, 0) + count * quantity(amount)
    needed.pop("rdma/rdma_shared_device_a")  # the queue's comment says what to do about it
    assert needed.keys() <= quota.keys()
    assert all(amount <= quota[name] for name, amount in needed.items())

    (group,) = find(platform, "PrometheusRule")["spec"]["groups"]
    exported = {"ray_vgg_step", "ray_vgg_data_wait_share", "ray_vgg_tracking_behind"}
    exported |= {"kuberay_job_deployment_status"}
    exported |= {"kube_statefulset_status_replicas_ready", "kube_cronjob_status_last_successful_time"}
    for rule in group["rules"]:
        used = set(re.findall(r"\b(?:kube|kuberay)_[a-z_]+(?=\{)|ray_(?:vgg|node)_\w+", rule["expr"]))
        assert used, rule["alert"]
        assert used <= exported, rule["alert"]
        assert rule["annotations"]["summary"]

    dashboard = json.loads(find(platform, "ConfigMap", "vgg-dashboard")["data"]["vgg-dashboard.json"])
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) > 10


@needs_kustomize
def test_checkov(tmp_path):
    """checkov on all objects and on the Pods inside the custom ones; its config has the exceptions."""
    checkov = os.environ.get("CHECKOV") or shutil.which("checkov")
    if checkov is None:
        pytest.skip(
            "checkov is not installed (in an environment of its own: uv tool install checkov; or set CHECKOV)"
        )
    for target in TARGETS:
        objects = rendered(target)
        wrapped = []
        for i, (where, pod) in enumerate(pods([o for o in objects if o["kind"] in ("RayCluster", "RayJob")])):
            pod["metadata"]["name"] = f"pod-{i}"
            pod["metadata"]["annotations"] = {"of": where}
            wrapped.append(pod)
        file = tmp_path / f"{target.replace('/', '-')}.yaml"
        file.write_text(yaml.safe_dump_all([*objects, *wrapped]))
    done = subprocess.run(
        [checkov, "--directory", str(tmp_path), "--config-file", str(K8S / "checkov.yaml"), "--output", "json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    report = json.loads(done.stdout)
    failed = [(each["check_id"], each["resource"]) for each in report["results"]["failed_checks"]]
    assert failed == []
    assert report["summary"]["resource_count"] > 100
    assert done.returncode == 0


def test_checkov_exceptions_have_reasons():
    text = (K8S / "checkov.yaml").read_text()
    (config,) = load(text)
    for check in config["skip-check"]:
        assert re.search(rf"- {check} # \S.+", text), check


def test_images_copy_what_exists():
    """Every COPY of the Dockerfiles finds its files, and .dockerignore lets them through."""
    for dockerfile, context in {"k8s/Dockerfile": ROOT, "k8s/mlflow/Dockerfile": K8S / "mlflow"}.items():
        text = (ROOT / dockerfile).read_text()
        for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
            for source in line.split()[:-1]:
                assert (context / source).exists(), f"{dockerfile}: {source}"
        assert "USER 1000:1000" in text
        assert "ARG BASE=" in text
    ignored = (ROOT / ".dockerignore").read_text().split()
    packages = [Path(line.removeprefix("!")).parts[0] for line in ignored if line.startswith("!")]
    copied = {s for line in re.findall(r"^COPY (.+)$", (K8S / "Dockerfile").read_text(), re.MULTILINE)
              for s in line.split()[:-1]}  # fmt: skip
    assert copied == set(packages)
