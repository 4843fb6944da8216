"""The real entry point on real clusters: submitted, refused, killed and resumed, on two nodes."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.namespaces import NetworkedCluster
from demo.__main__ import QUIET
from tests import entry_point
from tests.conftest import ROOT, needs_namespaces

RAY = str(Path(sys.executable).with_name("ray"))


def submit(cluster, *job: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit` from the repository's root."""
    address = f"--address={cluster.head.dashboard_url}"
    command = [RAY, "job", "submit", address, "--working-dir=.", "--", *job]
    return entry_point.run(command, {**entry_point.environment(cluster.head), **QUIET})


@pytest.fixture(scope="module")
def submitted(ray_cluster, digits, tmp_path_factory):
    """An undisturbed training, submitted as a job; its output and its folder."""
    out = tmp_path_factory.mktemp("submitted") / "out"
    done = submit(ray_cluster, *entry_point.command(digits, out))
    assert done.returncode == 0, done.stdout
    return done.stdout, out


def test_a_submitted_job_is_followed_to_its_end(submitted):
    output, out = submitted
    assert f"step {entry_point.STEPS}/{entry_point.STEPS}" in output
    assert "2 worker(s)" in output
    found = entry_point.result(out)
    assert found["steps"] == len(found["losses"]) == entry_point.STEPS
    assert found["layout"]["workers"] == 2


OF_RAYS_COMMAND = r"\d{4}-\d\d-\d\d [\d:,]+\t(INFO|SUCC) |Running entrypoint for job "
OF_AN_OVERLOADED_MACHINE = (
    r"\(TrainController pid=\d+\) Failed to send resource request .*\n"
    r"(\(TrainController pid=\d+\) .*\n)*?\(TrainController pid=\d+\) ray.exceptions.GetTimeoutError.*\n"
)
"""Ray says of it itself that it is safe to ignore where CPUs are overloaded, as tests may do."""
OURS = (
    r"starting 2 worker\(s\) …$",
    r"Ray: http://[\d.:]+/#/jobs/\w+, asks for the token in /",
    r"--layout.device auto: on CPUs, as no node of the cluster has a GPU \(2 workers\)$",
    r"\(RayTrainWorker pid=\d+\) digits, train.steps",
    r"\(RayTrainWorker pid=\d+\) configuration A, side 32, ",
    r"\(RayTrainWorker pid=\d+\) not tracked: ",
    r"\(RayTrainWorker pid=\d+\) step 1/24 .* left$",
)


def test_before_the_first_step_a_job_says_what_it_must_and_nothing_else(submitted):
    """No warning, no error and no traceback of what Ray does meanwhile."""
    plain = re.sub(r"\x1b\[\d*m", "", submitted[0])
    plain = re.sub(OF_AN_OVERLOADED_MACHINE, "", plain)
    lines = plain[: plain.index("\n", plain.index(" step 1/"))].splitlines()
    said = [line for line in lines if not re.match(OF_RAYS_COMMAND, line)]
    assert len(said) == len(OURS), said
    for line, ours in zip(said, OURS, strict=True):
        assert re.match(ours, line)


def test_the_exit_code_of_a_failed_job_is_not_zero(ray_cluster, digits, tmp_path):
    """More workers than there is room for: told with what is there and what was asked."""
    flags = ["--layout.workers=64", "--layout.wait-seconds=1"]
    done = submit(ray_cluster, *entry_point.command(digits, tmp_path / "out", *flags))
    assert done.returncode != 0
    assert "--layout.workers 64 asks for 64 workers of 1 CPU each" in done.stdout
    assert "4 CPU" in done.stdout


def test_a_relative_path_in_a_job_is_refused(ray_cluster):
    """It would end in the temporary copy that the job runs in."""
    done = submit(ray_cluster, "python", "-m", "vgg.train", "digits", "--data=digits", "--out=runs/x")
    assert done.returncode != 0
    assert "--data digits must be absolute" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_resumed_ends_with_the_very_same_weights(ray_cluster, digits, submitted, tmp_path, number):
    """The driver, once a checkpoint of the middle is there. SIGTERM saves the step that it finds."""
    out = tmp_path / "out"
    driver = subprocess.Popen(
        entry_point.command(digits, out),
        cwd=ROOT,
        env=entry_point.environment(ray_cluster.head),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not (out / "checkpoints" / "index.json").exists():
        assert driver.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    driver.send_signal(number)
    assert driver.wait(120) == (143 if number == signal.SIGTERM else -number)
    saved = json.loads((out / "checkpoints" / "index.json").read_text())["last"]

    done = entry_point.run(entry_point.command(digits, out), entry_point.environment(ray_cluster.head))
    assert done.returncode == 0, done.stdout
    undisturbed, resumed = entry_point.result(submitted[1]), entry_point.result(out)
    (step,) = resumed["resumed_from"]
    assert f"resumed from step {step}" in done.stdout
    assert 0 < step < entry_point.STEPS
    assert number == signal.SIGKILL or saved == f"step-{step:08d}"
    assert resumed["losses"] == undisturbed["losses"]
    assert resumed["weights_sha256"] == undisturbed["weights_sha256"]


@needs_namespaces
def test_two_nodes_with_their_own_addresses(digits, submitted, tmp_path):
    """One worker a node; gradients cross the network between them."""
    with NetworkedCluster(nodes=2, cpus=1) as cluster:
        job = entry_point.command(digits, tmp_path / "out")
        address = f"--address={cluster.nodes[0].dashboard_url}"
        command = [*cluster.command_prefix(0), RAY, "job", "submit", address, "--working-dir=.", "--", *job]
        done = entry_point.run(command, entry_point.environment(cluster.nodes[0]))
    assert done.returncode == 0, done.stdout
    assert (
        entry_point.result(tmp_path / "out")["weights_sha256"]
        == (entry_point.result(submitted[1])["weights_sha256"])
    )


def test_evaluate_scores_the_best_checkpoint(ray_cluster, digits, submitted):
    """As a job too, and to the image what the training counted."""
    out = submitted[1]
    done = submit(ray_cluster, "python", "-m", "vgg.evaluate", str(out), f"--data={digits}", "--scales=32")
    assert done.returncode == 0, done.stdout
    (file,) = out.glob("evaluations/*/single-crop-32/result.json")
    found, best = json.loads(file.read_text()), entry_point.result(out)["best"]
    assert found["images"] == best["seen"] == 364
    assert found["top1_wrong"] == round(364 * (1 - best["top1"]))
    assert found["top5_wrong"] == round(364 * (1 - best["top5"]))
    assert f"{found['top1_error']:.2f}" in done.stdout


def test_evaluate_refuses_other_classes(digits, submitted, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(digits, other)
    manifest = other / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"9"', '"nine"'))
    command = [sys.executable, "-m", "vgg.evaluate", str(submitted[1]), f"--data={other}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "other classes" in done.stderr
