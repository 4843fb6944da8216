"""Workers and nodes of a small real training are lost and come back: seconds to the next step, steps lost.

python -m tests.faults.elastic --tries 5 --out elastic.json

A head without cores and two nodes of one, each in a network namespace (root, iproute2). Each try trains the
digits on 1..2 workers, loses a worker or a node at a random moment, brings the node back, stops after the first
step with it, and compares the weights with those that as many steps of one worker make.
"""

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from cluster.leave import WORKER
from cluster.namespaces import Network
from cluster.nodes import Node, start_head
from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from tests import entry_point
from tests.conftest import ROOT
from tests.joined import joined
from tests.processes import Workers, job
from vgg.recipes.registry import RECIPES

FLAGS = [
    "--layout.workers=1..2",
    "--layout.wait-seconds=120",
    "--train.steps=5000",
    "--train.checkpoint-steps=20",
    "--train.log-steps=1",
]
PATIENCE_SECONDS = 240.0
LATEST_SECONDS = 6.0
"""Of a fault, after the first step."""
KINDS = ("worker", "node", "link")
STEP = re.compile(r"step ([\d,]+)/")
RESUMED = re.compile(r"resumed from step ([\d,]+) of")
STOPPED = re.compile(r"stopped: step ([\d,]+) is kept")
ROOM = "there is room for more workers: step "


class Machines:
    """The cluster; a context manager."""

    def __init__(self) -> None:
        self._network = Network(3)
        self.hosts = [self._network.host(i) for i in range(3)]
        self.cut, self.mend = self._network.cut, self._network.mend
        self.nodes: list[Node] = []
        try:
            self.nodes.append(start_head(0, host=self.hosts[0]))
            for host in (1, 2):
                self.join(host)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Machines":
        return self

    def __exit__(self, *_: object) -> None:
        for node in reversed(self.nodes):
            node.stop()
        self._network.close()

    def join(self, host: int) -> None:
        """Start a node of one core there, and wait until it is in."""
        self.nodes.append(joined(self.nodes[0], self.hosts[host]))

    def kill_worker(self, host: int) -> None:
        """SIGKILL of the training's worker on this host."""
        (worker,) = [pid for pid in self._pids(host) if _name(pid).startswith(WORKER)]
        os.kill(worker, signal.SIGKILL)

    def kill_node(self, host: int) -> None:
        """SIGKILL of all that runs on this host, at once."""
        for pid in self._pids(host):
            os.kill(pid, signal.SIGKILL)

    def _pids(self, host: int) -> list[int]:
        namespace = self.hosts[host].command_prefix[-1]
        listed = subprocess.run(["ip", "netns", "pids", namespace], check=True, capture_output=True, text=True)
        return [int(pid) for pid in listed.stdout.split()]


class Training:
    """One training on the machines, followed by its log."""

    def __init__(self, machines: Machines, data: Path, folder: Path) -> None:
        self.out, self._log = folder / "out", folder / "log"
        folder.mkdir(parents=True, exist_ok=True)
        command = entry_point.command(data, self.out, *FLAGS)
        # Ray would hold back lines that differ in numbers alone.
        environment = {**entry_point.environment(machines.nodes[0]), "RAY_DEDUP_LOGS": "0"}
        with self._log.open("w") as file:
            self.process = subprocess.Popen(
                [*machines.hosts[0].command_prefix, *command],
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=file,
            )

    def said(self) -> str:
        """The log up to now."""
        return self._log.read_text()

    def wait_for(self, pattern: str, since: int = 0) -> re.Match[str]:
        """The first match in the log from there on."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (match := re.compile(pattern).search(self.said(), since)) is None:
            assert self.process.poll() in (None, 143), f"it ended:\n{self.said()}"
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)
        return match

    def made_after(self, since: int) -> float:
        """Wait for the first step of a group that starts from there on; the moment."""
        started = self.wait_for(r"steps on \d worker", since)
        self.wait_for(STEP.pattern, started.end())
        return time.monotonic()

    def stop(self) -> int:
        """End it by SIGTERM; the step that is kept."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_SECONDS) == 143, self.said()
        return _number(self.wait_for(STOPPED.pattern)[1])


def same_weights(data: Path, out: Path, step: int) -> bool:
    """Whether a training that has made so many steps has the weights that one undisturbed worker makes."""
    recipe = RECIPES["digits"][1]
    recipe = replace(recipe, train=replace(recipe.train, steps=step))
    with Workers() as workers:
        found = [workers.run(1, job(data, each, recipe)).result for each in (out, out.with_name("undisturbed"))]
    return len({each["weights_sha256"] for each in found if each is not None}) == 1


@dataclass(frozen=True)
class Try:
    """What one fault led to."""

    kind: str
    seconds_after_first_step: float
    seconds_to_next_step: float
    workers_then: int
    resumed_from: int
    seconds_of_growing: float | None
    """From the node's being back to the first step with it."""
    steps_lost_growing: int | None
    same_weights: bool


def try_once(machines: Machines, data: Path, folder: Path, kind: str, after_seconds: float) -> Try:
    """Lose a worker or a node of a training, and bring it back."""
    training = Training(machines, data, folder)
    training.wait_for(STEP.pattern)
    time.sleep(after_seconds)
    mark, began = len(training.said()), time.monotonic()
    {"worker": machines.kill_worker, "node": machines.kill_node, "link": machines.cut}[kind](2)
    to_next_step = training.made_after(mark) - began
    workers = int(training.wait_for(r"steps on (\d) worker", mark)[1])
    resumed = RESUMED.search(training.said(), mark)
    growing, lost = None, None
    if workers == 1:
        mark = len(training.said())
        if kind == "link":
            machines.mend(2)
        else:
            machines.join(2)
        back = time.monotonic()
        kept = training.wait_for(ROOM + r"([\d,]+) is kept", mark)
        growing = training.made_after(kept.end()) - back
        again = training.wait_for(RESUMED.pattern, kept.end())
        lost = _number(kept[1]) - _number(again[1])
    step = training.stop()
    same = same_weights(data, training.out, step)
    from_step = _number(resumed[1]) if resumed else 0
    return Try(kind, after_seconds, to_next_step, workers, from_step, growing, lost, same)


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def _name(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return ""


def main() -> None:
    """Try, print each try and the summary, write them."""
    parser = argparse.ArgumentParser(description="Lost workers and nodes of a small elastic training.")
    parser.add_argument("--tries", type=int, default=5, help="of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["worker", "node"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    moments, tries = random.Random(options.seed), []
    with TemporaryDirectory() as name, Machines() as machines:
        folder = Path(name)
        pack(PackOptions("digits", folder / "digits", workers=1))
        for number in range(options.tries):
            for kind in options.kinds:
                after = moments.uniform(0, LATEST_SECONDS)
                place = folder / f"{kind}-{number}"
                tries.append(try_once(machines, folder / "digits", place, kind, after))
                print(tries[-1], flush=True)
    summary = {kind: _summary([each for each in tries if each.kind == kind]) for kind in options.kinds}
    print(json.dumps(summary, indent=1))
    if options.out:
        options.out.write_text(
            json.dumps({"summary": summary, "each": [asdict(t) for t in tries]}, indent=1) + "\n"
        )


def _summary(tries: list[Try]) -> dict[str, float]:
    to_next = [each.seconds_to_next_step for each in tries]
    growing = [each.seconds_of_growing for each in tries if each.seconds_of_growing is not None]
    return {
        "tries": len(tries),
        "seconds_to_next_step_median": statistics.median(to_next),
        "seconds_to_next_step_worst": max(to_next),
        "seconds_of_growing_median": statistics.median(growing) if growing else 0.0,
        "seconds_of_growing_worst": max(growing, default=0.0),
        "steps_lost_growing": sum(each.steps_lost_growing or 0 for each in tries),
        "same_weights": sum(each.same_weights for each in tries),
    }


if __name__ == "__main__":
    main()
