"""Ray's token, on a real cluster started with the variables that KubeRay gives to its containers."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray

from cluster.local import LocalCluster
from tests.conftest import ROOT
from tests.k8s.conftest import needs_kustomize
from tests.k8s.manifests import K8S, find, rendered

TOKEN = "0123456789abcdef" * 4
ANSWERED = {"no token": (None, 401), "a wrong token": ("f" * 64, 403), "the token": (TOKEN, 200)}


@pytest.fixture(scope="module")
def head():
    """A cluster that wants the token."""
    with LocalCluster(cpus=2, environment={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}) as cluster:
        yield cluster.head


def status(url: str, token: str | None = None) -> tuple[int, str]:
    """HTTP status and text of an address, read with or without a token."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def client(token: str | None, home: Path) -> dict[str, str]:
    """The environment of somebody who has this token, or none."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    env |= {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}
    return env if token is None else {**env, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}


def submit(head, env: dict[str, str], folder: Path, *entrypoint: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit` of a folder."""
    command = ["ray", "job", "submit", "--address", head.dashboard_url, "--working-dir", str(folder), "--"]
    return subprocess.run(
        [*command, *entrypoint], env=env, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.fixture(scope="module")
def tokenless_driver(head, digits, tmp_path_factory):
    """A training that joins the cluster without the token; it takes its time to give up."""
    home = tmp_path_factory.mktemp("home")
    env = client(None, home) | {"RAY_ADDRESS": head.address}
    command = [sys.executable, "-m", "vgg.train", "digits", f"--data={digits}", f"--out={home / 'run'}"]
    with subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as p:
        yield p
        p.kill()


@pytest.mark.parametrize("who", ANSWERED)
@pytest.mark.parametrize("path", ["/api/jobs/", "/api/version", "/nodes?view=summary"])
def test_dashboard(head, who, path):
    token, expected = ANSWERED[who]
    assert status(f"{head.dashboard_url}{path}", token)[0] == expected


def test_what_kubernetes_asks_without_a_token(head):
    """The submitter waits for the dashboard's health, the kubelet asks the agent: neither sends a token."""
    assert status(f"{head.dashboard_url}/api/gcs_healthz") == (200, "success")
    (port,) = re.findall(r"--dashboard-agent-listen-port=(\d+)", " ".join(psutil.Process(head.pid).cmdline()))
    deadline = time.monotonic() + 60
    answered = 0
    while answered != 200:  # the agent starts after the dashboard
        assert time.monotonic() < deadline, f"the agent answers {answered}"
        time.sleep(0.2)
        with suppress(urllib.error.URLError):
            answered = status(f"http://127.0.0.1:{port}/api/healthz")[0]


def test_submit_is_refused(head, tokenless_driver, tmp_path):
    done = submit(head, client(None, tmp_path), tmp_path, "python", "-c", "print('must-not-be')")
    assert done.returncode != 0
    assert re.search("401|authentication token", done.stdout + done.stderr, re.IGNORECASE), done.stderr
    listed = json.loads(status(f"{head.dashboard_url}/api/jobs/", TOKEN)[1])
    assert not [job for job in listed if "must-not-be" in str(job["entrypoint"])]


def test_driver_is_refused(head, tokenless_driver):
    """The control store itself, past the dashboard; who is refused learns what to do."""
    said, _ = tokenless_driver.communicate(timeout=300)
    assert tokenless_driver.returncode == 2, said
    assert f"cannot join the Ray cluster at {head.address}".encode() in said, said
    assert b"export RAY_AUTH_MODE=token" in said


def test_submit_trains(head, tokenless_driver, digits, tmp_path):
    """With the token the job runs to its end; the job itself is given the token by its cluster."""
    done = submit(
        head,
        client(TOKEN, tmp_path),
        ROOT,
        *("python", "-m", "vgg.train", "digits", f"--data={digits}", f"--out={tmp_path / 'run'}"),
        *("--layout.workers=2", "--train.steps=6", "--train.checkpoint-steps=3"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run/result.json").read_text())["steps"] == 6


@needs_kustomize
def test_submitter_notices_a_head_that_does_not_know_its_job(head, tokenless_driver, tmp_path):
    """Its probe, by which it ends after the head is lost, and another submits the job to the new one."""
    done = submit(head, client(TOKEN, tmp_path), tmp_path, "true")
    known = re.findall(r"raysubmit_\w+", done.stdout)[0]
    template = find(rendered("local-cpu/job"), "RayJob")["spec"]["submitterPodTemplate"]
    (container,) = template["spec"]["containers"]
    assert container["startupProbe"]["exec"] == container["livenessProbe"]["exec"]
    command = [sys.executable, *container["livenessProbe"]["exec"]["command"][1:]]
    address = head.dashboard_url.removeprefix("http://")
    for job, where, token, code in (
        (known, address, TOKEN, 0),
        ("another-job", address, TOKEN, 1),
        (known, address, "f" * 64, 1),
        (known, "127.0.0.1:9", TOKEN, 1),
    ):
        env = {"RAY_DASHBOARD_ADDRESS": where, "RAY_JOB_SUBMISSION_ID": job, "RAY_AUTH_TOKEN": token}
        assert subprocess.run(command, env=env, capture_output=True, check=False).returncode == code, env


def test_dashboard_of_ours_shows_what_ray_exports(head):
    """Every metric of components/monitoring is exported, and needs no token; GPUs' and Train's are not here.

    What a training shows itself is in `tests/cluster/test_exported.py`.
    """
    deadline = time.monotonic() + 90
    exported: set[str] = set()
    panels = json.loads((K8S / "components/monitoring/vgg-dashboard.json").read_text())["panels"]
    drawn = {
        name
        for panel in panels
        for t in panel["targets"]
        for name in re.findall(r"ray_(?!io_|vgg_)\w+", t["expr"])
    }
    elsewhere = {"ray_node_gpus_utilization", "ray_node_gram_used", "ray_train_worker_group_start_total_time_s"}
    while not drawn - exported <= elsewhere:  # Ray reports some of them a while after its start
        assert time.monotonic() < deadline, drawn - exported - elsewhere
        found = json.loads((Path(head.folder) / "ray/prom_metrics_service_discovery.json").read_text())
        text = "".join(status(f"http://{target}/metrics")[1] for each in found for target in each["targets"])
        exported = set(re.findall(r"^(ray_\w+)[{ ]", text, re.MULTILINE))
        time.sleep(1)
    assert len(drawn & exported) >= 8
    sources = Path(ray.__file__).parent
    listed = (sources / "dashboard/modules/reporter/reporter_agent.py").read_text()
    listed += (sources / "train/v2/_internal/metrics/controller.py").read_text()
    assert all(f'"{name.removeprefix("ray_")}"' in listed for name in elsewhere)
