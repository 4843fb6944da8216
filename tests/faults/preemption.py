"""SIGTERM at random moments of a small real training: are steps lost, and how long does the end take?

python -m tests.faults.preemption --tries 20 --out preemption.json

Each try starts the training, ends it by SIGTERM at a random moment after its first step, and repeats the
command to the end. A step is lost if it has two points in the curve in MLflow: it was made twice.
"""

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient

from cluster.local import LocalCluster
from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from tests import entry_point
from tests.conftest import ROOT
from tests.mlflow_server import MLflowServer

STEPS = 60
FLAGS = [f"--train.steps={STEPS}", "--train.checkpoint-steps=1000", "--train.log-steps=5", "--layout.workers=2"]
LATEST_SECONDS = 6.0
"""After the first step; the training takes about ten."""
PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Try:
    """What one SIGTERM led to."""

    seconds_after_first_step: float
    exit_code: int
    seconds_to_exit: float
    saved_step: int
    steps_lost: int
    same_weights: bool
    status: str


class Trainings:
    """The same training, again and again, on one cluster and one tracking server."""

    def __init__(self, folder: Path, cluster: LocalCluster, server: MLflowServer) -> None:
        self._folder, self._server = folder, server
        self._environment = entry_point.environment(cluster.head)
        pack(PackOptions("digits", folder / "digits", workers=1))
        assert self._start("undisturbed").wait(PATIENCE_SECONDS) == 0
        self._weights = entry_point.result(folder / "undisturbed")["weights_sha256"]

    def try_once(self, number: int, after_seconds: float) -> Try:
        """Stop one and repeat its command."""
        name = f"try-{number}"
        training = self._start(name)
        self._wait_for_first_step(name, training)
        time.sleep(after_seconds)
        training.send_signal(signal.SIGTERM)
        began = time.monotonic()
        code = training.wait(PATIENCE_SECONDS)
        seconds = time.monotonic() - began
        status = self._run(name).info.status
        index = json.loads((self._folder / name / "checkpoints" / "index.json").read_text())
        assert self._start(name).wait(PATIENCE_SECONDS) == 0, (self._folder / f"{name}.log").read_text()
        points = Counter(point.step for point in self._losses(name))
        assert set(points) == set(range(1, STEPS + 1)), "the curve has gaps"
        return Try(
            after_seconds,
            code,
            seconds,
            int(index["last"].removeprefix("step-")),
            sum(points.values()) - STEPS,
            entry_point.result(self._folder / name)["weights_sha256"] == self._weights,
            status,
        )

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        track = [f"--track={self._server.url}", f"--experiment={name}"]
        folders = [f"--data={self._folder}/digits", f"--out={self._folder / name}"]
        command = [sys.executable, "-m", "vgg.train", "digits", *folders, *FLAGS, *track]
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, env=self._environment, stdout=log, stderr=log)

    def _wait_for_first_step(self, name: str, training: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._losses(name):
            assert training.poll() is None, (self._folder / f"{name}.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def _run(self, name: str):
        client = MlflowClient(self._server.url)
        found = client.get_experiment_by_name(name)
        return next(iter(client.search_runs([found.experiment_id])), None) if found else None

    def _losses(self, name: str):
        run = self._run(name)
        client = MlflowClient(self._server.url)
        return client.get_metric_history(run.info.run_id, "train/loss") if run else []


def main() -> None:
    """Try, print each try and the summary, write them."""
    parser = argparse.ArgumentParser(description="SIGTERM at random moments of a small training.")
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    moments, tries = random.Random(options.seed), []
    with TemporaryDirectory() as folder, LocalCluster(cpus=2) as cluster:
        (Path(folder) / "mlflow").mkdir()
        with MLflowServer(Path(folder) / "mlflow") as server:
            trainings = Trainings(Path(folder), cluster, server)
            for number in range(options.tries):
                tries.append(trainings.try_once(number, moments.uniform(0, LATEST_SECONDS)))
                print(tries[-1], flush=True)
    seconds = [each.seconds_to_exit for each in tries if each.exit_code == 143]
    summary = {
        "tries": len(tries),
        "stopped": len(seconds),
        "seconds_to_exit_median": statistics.median(seconds),
        "seconds_to_exit_worst": max(seconds),
        "steps_lost": sum(each.steps_lost for each in tries),
        "same_weights": sum(each.same_weights for each in tries),
        "killed_in_mlflow": sum(each.status == "KILLED" for each in tries),
    }
    print(json.dumps(summary, indent=1))
    if options.out:
        options.out.write_text(
            json.dumps({**summary, "each": [asdict(each) for each in tries]}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
