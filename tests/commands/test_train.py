"""The real entry point on real clusters: submitted, refused, killed and resumed, on two nodes."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from ray.job_submission import JobStatus, JobSubmissionClient

from cluster.namespaces import NetworkedCluster
from demo.commands import QUIET
from tests import entry_point
from tests.conftest import ROOT, needs_namespaces
from tests.ray_workers import workers_of
from vgg.tracking.remark import HANG_TAG

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
    r"--layout.device auto: on CPUs, as no node of the cluster has a GPU \(2 worker\(s\)\)$",
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


def wait_for_checkpoint(out: Path, ended) -> None:
    deadline = time.monotonic() + 300
    while not (out / "checkpoints" / "index.json").exists():
        assert not ended(), "the training ended before it could be"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def require_resumed(cluster, digits, out: Path, undisturbed: Path) -> int:
    """The same command ends with the very same weights; the step that it has resumed from."""
    done = entry_point.run(entry_point.command(digits, out), entry_point.environment(cluster.head))
    assert done.returncode == 0, done.stdout
    expected, resumed = entry_point.result(undisturbed), entry_point.result(out)
    (step,) = resumed["resumed_from"]
    assert f"resumed from step {step}" in done.stdout
    assert 0 < step < entry_point.STEPS
    assert resumed["losses"] == expected["losses"]
    assert resumed["weights_sha256"] == expected["weights_sha256"]
    return step


def test_killed_and_resumed_ends_with_the_very_same_weights(ray_cluster, digits, submitted, tmp_path):
    """The driver, once a checkpoint of the middle is there."""
    out = tmp_path / "out"
    driver = subprocess.Popen(
        entry_point.command(digits, out),
        cwd=ROOT,
        env=entry_point.environment(ray_cluster.head),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for_checkpoint(out, lambda: driver.poll() is not None)
    driver.kill()
    driver.wait()
    require_resumed(ray_cluster, digits, out, submitted[1])


def test_a_job_that_ray_stops_has_saved_its_step(ray_cluster, digits, submitted, tmp_path):
    """As by `ray job stop`, which would take seconds to import Ray; the job is killed after the time that our
    clusters set."""
    out, env = tmp_path / "out", {**entry_point.environment(ray_cluster.head), **QUIET}
    job, jobs = tmp_path.name.replace("_", "-"), JobSubmissionClient(ray_cluster.head.dashboard_url)
    named = [f"--address={ray_cluster.head.dashboard_url}", "--no-wait", f"--submission-id={job}"]
    submit_it = [RAY, "job", "submit", *named, "--working-dir=.", "--", *entry_point.command(digits, out)]
    done = entry_point.run(submit_it, env)
    assert done.returncode == 0, done.stdout
    wait_for_checkpoint(out, (out / "result.json").exists)
    jobs.stop_job(job)
    deadline = time.monotonic() + 120
    while not jobs.get_job_status(job).is_terminal():
        assert time.monotonic() < deadline, jobs.get_job_logs(job)
        time.sleep(0.2)
    assert jobs.get_job_status(job) == JobStatus.STOPPED
    saved = json.loads((out / "checkpoints" / "index.json").read_text())["last"]
    step = require_resumed(ray_cluster, digits, out, submitted[1])
    assert saved == f"step-{step:08d}"
    assert f"stopped: step {step} is kept in {out}" in jobs.get_job_logs(job)


def test_a_stopped_worker_is_named_and_replaced(ray_cluster, mlflow_server, digits, submitted, tmp_path):
    """It can say nothing itself; the other one waits for it."""
    out, log = tmp_path / "out", tmp_path / "log"
    tracked = [f"--track={mlflow_server.url}", f"--experiment={tmp_path.name}"]
    with log.open("w") as file:
        training = subprocess.Popen(
            entry_point.command(digits, out, "--layout.hang-seconds=8", *tracked),
            cwd=ROOT,
            env=entry_point.environment(ray_cluster.head),
            stdout=file,
            stderr=file,
        )
    deadline = time.monotonic() + 300
    while len(workers := workers_of(ray_cluster)) < 2 or not (out / "checkpoints" / "index.json").exists():
        assert training.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers[0].suspend()
    assert training.wait(300) == 0, log.read_text()
    said, undisturbed, resumed = log.read_text(), entry_point.result(submitted[1]), entry_point.result(out)
    named = re.search(
        rf"rank \d \(PID {workers[0].pid} on node 127.0.0.1\) does not go on: .*\bstep (\d+), .*", said
    )
    assert named is not None, said
    assert "its process is stopped (SIGSTOP); its stack:\n" in named.string[named.start() :]
    assert "is killed after --layout.hang-seconds 8" in said
    (step,) = resumed["resumed_from"]
    assert 0 < step < entry_point.STEPS
    assert 0 < int(named[1]) <= step + 2 * entry_point.CHECKPOINT_STEPS  # one may not have been written yet
    assert resumed["weights_sha256"] == undisturbed["weights_sha256"]
    client = MlflowClient(mlflow_server.url)
    experiment = client.get_experiment_by_name(tmp_path.name)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags[HANG_TAG].startswith(named[0])
    assert run.info.status == "FINISHED"


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
