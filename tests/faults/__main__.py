"""Faults at random moments of a small real training: what is lost, and how long it takes to go on.

    python -m tests.faults --tries 20 --out faults.json
    python -m tests.faults --faults worker node --tries 5

for each fault, so many times: start the training, strike at a random moment after its first step
    where the command ends before its time: repair, and repeat the command
    where it says that MLflow lacks something: deliver it, by the command that it says
compare the weights with an undisturbed training's, count the points of the curve in MLflow
"""

import json
import math
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import tyro

from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from tests import entry_point
from tests.faults.faults import FAULTS
from tests.faults.testbed import WORKERS, Testbed
from tests.faults.training import PATIENCE_SECONDS, Training, Watch
from tests.faults.tries import Try, longest_pause, table

STEPS, CHECKPOINT_STEPS = 150, 10
FLAGS = (
    f"--train.steps={STEPS}",
    f"--train.checkpoint-steps={CHECKPOINT_STEPS}",
    "--train.log-steps=1",
    f"--layout.workers={WORKERS}",
    "--layout.wait-seconds=120",
)
GROWS = "there is room for more workers"
"""In the log of a training that goes on with more."""
REPEATS = 2


@dataclass(frozen=True)
class Options:
    """Faults at random moments of a small real training."""

    faults: tuple[str, ...] = tuple(FAULTS)
    tries: int = 1
    """Of each."""
    seed: int = 0
    out: Path | None = None
    """JSON file to add the tries to."""


class Suite:
    """The same training, again and again."""

    def __init__(self, bed: Testbed, moments: random.Random) -> None:
        self._bed, self._moments = bed, moments
        pack(PackOptions("digits", bed.folder / "digits", workers=1))
        undisturbed = self._start("undisturbed")
        assert undisturbed.process.wait(PATIENCE_SECONDS) == 0, undisturbed.log.read_text()
        self._weights = entry_point.result(undisturbed.out)["weights_sha256"]
        points = bed.points("undisturbed")
        self.seconds = points[-1][1] - points[0][1]
        """From the first step to the last."""

    def try_once(self, number: int, name: str) -> Try:
        """Start a training, strike, let it come to its end."""
        fault, experiment = FAULTS[name], f"{name}-{number}"
        self._bed.repair()
        training = self._start(experiment, *fault.flags, own_disk=fault.own_disk)
        self._wait_for_first_step(experiment, training)
        time.sleep(self._moments.uniform(0, 0.8 * self.seconds))
        before, struck_at = self._bed.points(experiment), time.time()
        watch = Watch(training.log)
        fault.strike(training)
        codes, said = [training.end()], ""
        ended_at, named_at = time.time(), watch.stop()
        grows_from = self._bed.complete_since if GROWS in training.log.read_text() else math.inf
        while codes[-1] != 0 and len(codes) <= REPEATS:
            said = said or _last_line(training.log)
            fault.repair(training)
            self._bed.repair()
            training = self._start(experiment, *fault.flags, own_disk=fault.own_disk)
            codes.append(training.end())
        training.deliver()
        found = entry_point.result(training.out) if codes[-1] == 0 else {}
        points = self._bed.points(experiment)
        moments = [moment for _, moment in points]
        began_at, pause = longest_pause(moments, struck_at, grows_from)
        growing_at, growing = longest_pause(moments, grows_from)
        made = max(step for step, moment in points if moment <= began_at)
        return Try(
            fault=name,
            at_step=before[-1][0],
            exit_codes=tuple(codes),
            seconds_without_step=pause,
            seconds_until_named=named_at and named_at - struck_at,
            seconds_to_end=ended_at - struck_at,
            seconds_to_grow=growing_at + growing - grows_from if grows_from < math.inf else None,
            steps_lost=sum(max(made - step, 0) for step in found.get("resumed_from", [])),
            points_missing=STEPS - len({step for step, _ in points}),
            same_weights=found.get("weights_sha256") == self._weights,
            status=self._bed.status(experiment),
            said=said,
        )

    def _start(self, name: str, *flags: str, own_disk: bool = False) -> Training:
        out = (self._bed.small_disk if own_disk else self._bed.folder) / name
        return Training.start(self._bed, out, *FLAGS, *flags)

    def _wait_for_first_step(self, name: str, training: Training) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._bed.points(name):
            assert training.process.poll() is None, training.log.read_text()
            assert time.monotonic() < deadline, training.log.read_text()
            time.sleep(0.1)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def main() -> None:
    """Try, print each try and the table, write them."""
    options = tyro.cli(Options, prog="python -m tests.faults")
    moments, tries = random.Random(options.seed), []
    with TemporaryDirectory(prefix="faults-") as folder, Testbed(Path(folder)) as bed:
        suite = Suite(bed, moments)
        print(f"undisturbed: {STEPS} steps in {suite.seconds:.1f} s", flush=True)
        for number in range(options.tries):
            for name in options.faults:
                tries.append(suite.try_once(number, name))
                print(tries[-1], flush=True)
                if options.out:
                    options.out.write_text(json.dumps([asdict(each) for each in tries], indent=1) + "\n")
    print(table(tries))
    wrong = [each for each in tries if not each.same_weights or each.points_missing]
    sys.exit(f"{len(wrong)} of {len(tries)} were not as promised" if wrong else 0)


if __name__ == "__main__":
    main()
