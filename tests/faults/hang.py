"""What a training does about a stopped worker, a lost controller, a lost head and a cut link, and how soon.

python -m tests.faults.hang stop controller head link --tries 5 --out hang.json

Each try starts the digits on two workers, does its harm at a random moment after the first step, and follows
the log to the end. `stop`: SIGSTOP of a worker; `controller`, `head`: SIGKILL of Train's controller, of the
head's processes; `link`: the second of two nodes is cut off for 30 s (network namespaces: root and iproute2).
"""

import argparse
import json
import random
import re
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from cluster.leave import WORKER
from cluster.local import LocalCluster
from cluster.namespaces import NetworkedCluster
from cluster.nodes import Node
from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from tests import entry_point
from tests.conftest import ROOT

FLAGS = ["--train.steps=120", "--train.checkpoint-steps=20", "--layout.hang-seconds=10"]
CUT_SECONDS = 30.0
LATEST_SECONDS = 5.0
PATIENCE_SECONDS = 300.0
CONTROLLER = "ray::TrainController"
NAMED = r"does not go on|controller was lost|has not answered|could not be started"
STEP = r"resumed from step (?:.*\n)*?.* step \d+/"


@dataclass(frozen=True)
class Try:
    """What one fault led to."""

    fault: str
    seconds_after_first_step: float
    seconds_to_name: float | None
    seconds_to_next_step: float | None
    seconds_to_end: float
    exit_code: int
    same_weights: bool | None


class Trainings:
    """The same training again and again, each on a cluster of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        pack(PackOptions("digits", folder / "digits", workers=1))
        with LocalCluster(cpus=2) as cluster:
            assert self._start("undisturbed", cluster).wait(PATIENCE_SECONDS) == 0
        self._weights = entry_point.result(folder / "undisturbed")["weights_sha256"]

    def try_once(self, fault: str, number: int, after_seconds: float) -> Try:
        """Do the harm and follow what comes of it."""
        name = f"{fault}-{number}"
        with NetworkedCluster(2, 1) if fault == "link" else LocalCluster(cpus=2) as cluster:
            training = self._start(name, cluster)
            self._when(name, r" step \d+/", training)
            time.sleep(after_seconds)
            harmed, said = time.monotonic(), len(self._log(name))
            _harm(cluster, fault)
            named, stepped = (self._when(name, found, training, said) for found in (NAMED, STEP))
            code = training.wait(PATIENCE_SECONDS)
            ended = time.monotonic()
        result = self._folder / name / "result.json"
        return Try(
            fault,
            after_seconds,
            named and named - harmed,
            stepped and stepped - harmed,
            ended - harmed,
            code,
            json.loads(result.read_text())["weights_sha256"] == self._weights if result.exists() else None,
        )

    def last_words(self, fault: str, number: int) -> str:
        """The end of a try's log."""
        return self._log(f"{fault}-{number}")[-1500:]

    def _start(self, name: str, cluster: LocalCluster | NetworkedCluster) -> subprocess.Popen[bytes]:
        prefix: tuple[str, ...] = ()
        if isinstance(cluster, NetworkedCluster):
            prefix = cluster.command_prefix(0)
        command = entry_point.command(self._folder / "digits", self._folder / name, *FLAGS)
        environment = entry_point.environment(_head(cluster))
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen([*prefix, *command], cwd=ROOT, env=environment, stdout=log, stderr=log)

    def _log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def _when(self, name: str, found: str, training: subprocess.Popen[bytes], after: int = 0) -> float | None:
        """When the log first says so; None where the training ends without."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            ended = training.poll() is not None
            if re.search(found, self._log(name)[after:]):
                return time.monotonic()
            if ended:
                return None
            time.sleep(0.02)
        raise TimeoutError(self._log(name))


def _head(cluster: LocalCluster | NetworkedCluster) -> Node:
    return cluster.nodes[0] if isinstance(cluster, NetworkedCluster) else cluster.head


def _harm(cluster: LocalCluster | NetworkedCluster, fault: str) -> None:
    if isinstance(cluster, NetworkedCluster):
        cluster.cut(1)
        threading.Timer(CUT_SECONDS, cluster.mend, (1,)).start()
        return
    head = cluster.head.process()
    assert head is not None
    tree = [head, *head.children(recursive=True)]
    wanted = {"stop": WORKER, "controller": CONTROLLER, "head": ""}[fault]
    found = [process for process in tree if _command(process).startswith(wanted)]
    for process in found if fault == "head" else found[:1]:
        with suppress(psutil.NoSuchProcess):
            process.suspend() if fault == "stop" else process.kill()


def _command(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def _summary(tries: list[Try]) -> dict[str, object]:
    def of(seconds: Callable[[Try], float | None]) -> list[float] | None:
        known = [each for each in map(seconds, tries) if each is not None]
        return [round(statistics.median(known), 1), round(max(known), 1)] if known else None

    return {
        "tries": len(tries),
        "seconds_to_name": of(lambda each: each.seconds_to_name),
        "seconds_to_next_step": of(lambda each: each.seconds_to_next_step),
        "seconds_to_end": of(lambda each: each.seconds_to_end),
        "exit_codes": sorted(each.exit_code for each in tries),
        "same_weights": sum(each.same_weights is True for each in tries),
    }


def main() -> None:
    """Try, print each try and the summary (median and worst of each time), write them."""
    parser = argparse.ArgumentParser(description="Faults that no worker tells of.")
    parser.add_argument("faults", nargs="+", choices=["stop", "controller", "head", "link"])
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    moments, tries = random.Random(options.seed), []
    with TemporaryDirectory() as folder:
        trainings = Trainings(Path(folder))
        for fault in options.faults:
            for number in range(options.tries):
                tries.append(trainings.try_once(fault, number, moments.uniform(0, LATEST_SECONDS)))
                print(tries[-1], trainings.last_words(fault, number), sep="\n", flush=True)
    found = {fault: _summary([each for each in tries if each.fault == fault]) for fault in options.faults}
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps({**found, "each": [asdict(each) for each in tries]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
