"""What a training does whose S3 server is killed while it saves there, and is back or stays away.

python -m tests.faults.store short long --tries 3 --out store.json

Each try trains the digits on two workers into a bucket of a real server (SeaweedFS), a checkpoint every second
step, and kills the server at a random moment. `short`: it is back after 20 s; the training is to go on. `long`:
it is away for longer than a training waits for a store, ten minutes; the command is to end with 1, and repeated
once the server is back. The weights at the end are compared with those of a training into a folder.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient

from cluster.local import LocalCluster
from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from pipelines.storage.folder import Folder
from tests import entry_point
from tests.conftest import ROOT
from tests.mlflow_server import MLflowServer
from tests.object_store import KEYS, ObjectStore

STEPS = 120
FLAGS = [f"--train.steps={STEPS}", "--train.checkpoint-steps=2", "--train.log-steps=1"]
SECONDS_AWAY = {"short": 20.0, "long": None}
"""None: until the command has ended."""
LATEST_SECONDS = 10.0
VOLUMES = 400
"""All checkpoints of all tries have room."""
PATIENCE_SECONDS = 900.0


@dataclass(frozen=True)
class Try:
    """What one outage led to."""

    kind: str
    exit_codes: tuple[int, ...]
    seconds_without_step: float
    """The longest pause between two steps."""
    seconds_to_end: float
    """From the outage to the end of the command that it struck."""
    resumed_from: list[int]
    points_missing: int
    same_weights: bool
    said: str
    """The last line of the command that it ended."""


class Trainings:
    """The same training again and again, each into a folder of its own in the bucket."""

    def __init__(self, folder: Path, cluster: LocalCluster, server: MLflowServer, store: ObjectStore) -> None:
        self._folder, self._cluster, self._server, self._store = folder, cluster, server, store
        pack(PackOptions("digits", folder / "digits", workers=1))
        assert self._start("undisturbed", folder / "undisturbed").wait(PATIENCE_SECONDS) == 0
        self._weights = entry_point.result(folder / "undisturbed")["weights_sha256"]

    def try_once(self, name: str, kind: str, after_seconds: float) -> Try:
        """Start a training, take the server away, let it come to its end."""
        out, log = self._store.uri(name), self._folder / f"{name}.log"
        training = self._start(name, out)
        while not self._points(name):
            assert training.poll() is None, log.read_text()
            time.sleep(0.2)
        time.sleep(after_seconds)
        self._store.kill()
        began = time.time()
        if (away := SECONDS_AWAY[kind]) is not None:
            time.sleep(away)
            self._store.start()
        codes, said = [training.wait(PATIENCE_SECONDS)], ""
        seconds = time.time() - began
        if codes[0] != 0:
            said = log.read_text().splitlines()[-1]
            self._store.start()
            self._store.wait()
            codes.append(self._start(name, out).wait(PATIENCE_SECONDS))
        result = json.loads(Folder(out).read("result.json")) if codes[-1] == 0 else {}
        points = self._points(name)
        return Try(
            kind=kind,
            exit_codes=tuple(codes),
            seconds_without_step=max(later - earlier for (_, earlier), (_, later) in pairwise(points)),
            seconds_to_end=seconds,
            resumed_from=result.get("resumed_from", []),
            points_missing=STEPS - len({step for step, _ in points}),
            same_weights=result.get("weights_sha256") == self._weights,
            said=said,
        )

    def _start(self, name: str, out: Path | str) -> subprocess.Popen[bytes]:
        tracked = [f"--track={self._server.url}", f"--experiment={name}"]
        command = entry_point.command(self._folder / "digits", out, *FLAGS, *tracked)
        environment = entry_point.environment(self._cluster.head)
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def _points(self, name: str) -> list[tuple[int, float]]:
        """Step and Unix time of every point of the training loss in MLflow, by time."""
        client = MlflowClient(self._server.url)
        experiment = client.get_experiment_by_name(name)
        found = client.search_runs([experiment.experiment_id]) if experiment is not None else []
        history = [each for run in found for each in client.get_metric_history(run.info.run_id, "train/loss")]
        return sorted(((each.step, each.timestamp / 1000) for each in history), key=lambda point: point[1])


def _summary(tries: list[Try]) -> dict[str, object]:
    pauses = [each.seconds_without_step for each in tries]
    return {
        "tries": len(tries),
        "seconds_without_step_median": statistics.median(pauses),
        "seconds_without_step_worst": max(pauses),
        "seconds_to_end_worst": max(each.seconds_to_end for each in tries),
        "points_missing": sum(each.points_missing for each in tries),
        "same_weights": sum(each.same_weights for each in tries),
    }


def main() -> None:
    """Try, print each try and the summary, write them."""
    parser = argparse.ArgumentParser(description="A store that is killed while a training saves to it.")
    parser.add_argument("kinds", nargs="+", choices=list(SECONDS_AWAY))
    parser.add_argument("--tries", type=int, default=1, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.environ.update(KEYS)
    moments, tries = random.Random(options.seed), []
    with TemporaryDirectory(prefix="store-") as temporary:
        folder = Path(temporary)
        with (
            ObjectStore(folder, VOLUMES) as store,
            MLflowServer(folder) as server,
            LocalCluster(cpus=2) as cluster,
        ):
            trainings = Trainings(folder, cluster, server, store)
            for number in range(options.tries):
                for kind in options.kinds:
                    after = moments.uniform(0, LATEST_SECONDS)
                    tries.append(trainings.try_once(f"{kind}-{number}", kind, after))
                    print(tries[-1], flush=True)
    found = {kind: _summary([each for each in tries if each.kind == kind]) for kind in options.kinds}
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps({**found, "each": [asdict(each) for each in tries]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
