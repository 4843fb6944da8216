"""The real entry point on a real cluster: parity over workers, resume, mistakes."""

import signal
import subprocess
import time

import pytest

from pipelines.pack import Pack, pack
from tests.conftest import ROOT
from tests.training import command, environment, result, train


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "digits"
    pack(Pack("digits", folder, workers=1))
    return folder


@pytest.fixture(scope="module")
def straight(ray_cluster, digits, tmp_path_factory):
    """Twenty undisturbed steps on one, two and three workers."""
    folder = tmp_path_factory.mktemp("straight")

    def one(workers):
        out = folder / str(workers)
        done = train(ray_cluster, digits, out, "--train.steps=20", f"--layout.workers={workers}")
        assert done.returncode == 0, done.stdout
        return result(out)

    return {workers: one(workers) for workers in (1, 2, 3)}


def test_losses_do_not_depend_on_the_number_of_workers(straight):
    losses = {workers: found["losses"] for workers, found in straight.items()}
    assert {len(each) for each in losses.values()} == {20}
    assert losses[2] == pytest.approx(losses[1], rel=1e-5)
    assert losses[3] == pytest.approx(losses[1], rel=1e-5)


def test_validation_counts_every_image_once(straight):
    for found in straight.values():
        assert [v["seen"] for v in found["validations"]] == [364]


def test_micro_batches_do_not_change_the_losses(ray_cluster, digits, straight, tmp_path):
    """Two workers of 12 rows, five at a time: 5, 5, 2."""
    done = train(
        ray_cluster,
        digits,
        tmp_path / "out",
        "--train.steps=20",
        "--layout.workers=2",
        "--layout.micro-batch=5",
    )
    assert done.returncode == 0, done.stdout
    assert result(tmp_path / "out")["losses"] == pytest.approx(straight[1]["losses"], rel=1e-5)


@pytest.mark.parametrize("workers", [2, 3])
def test_killed_and_resumed_ends_with_the_very_same_weights(ray_cluster, digits, straight, tmp_path, workers):
    """SIGKILL of the driver as soon as a checkpoint of the middle is there."""
    out = tmp_path / "out"
    flags = ["--train.steps=20", f"--layout.workers={workers}"]
    driver = subprocess.Popen(
        command(digits, out, *flags),
        cwd=ROOT,
        env=environment(ray_cluster),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "index.json").exists():
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert not (out / "result.json").exists(), "killed too late to test anything"

    done = train(ray_cluster, digits, out, *flags)
    assert done.returncode == 0, done.stdout
    found = result(out)
    (step,) = found["resumed_from"]
    assert 0 < step < 20
    assert f"resumed from step {step}" in done.stdout
    assert found["weights_sha256"] == straight[workers]["weights_sha256"]
    assert found["losses"] == straight[workers]["losses"]
