"""What a training does while the clocks of its machines jump, by an hour to and fro.

    python -m tests.faults.clock --tries 3

The wall clock of every process of the command and of the nodes is libfaketime's, which a file moves; clocks
that only go forward (CLOCK_MONOTONIC) are left alone, as where an administrator or NTP sets the time.
"""

import argparse
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from tests import entry_point
from tests.faults.testbed import WORKERS, Testbed
from tests.faults.training import PATIENCE_SECONDS, Training

STEPS = 150
FLAGS = (
    f"--train.steps={STEPS}",
    "--train.checkpoint-steps=10",
    "--train.checkpoint-seconds=5",
    "--train.log-steps=1",
    f"--layout.workers={WORKERS}",
)
JUMPS_SECONDS = 3600, -3600, 0
"""Of the wall clock against the true one, one after the other."""
BETWEEN_SECONDS, LATEST_SECONDS = 4.0, 15.0
"""Between two jumps; from the first step to the first jump."""


class Clock:
    """One that can be set, for the processes that have its variables."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    def set(self, seconds: int) -> None:
        """So many seconds ahead of the true time, at once for all: the file is replaced, never half-written."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._file)

    def environment(self) -> dict[str, str]:
        """The variables."""
        (package,) = find_spec("libfaketime").submodule_search_locations  # type: ignore[union-attr, misc]
        return {
            "LD_PRELOAD": f"{package}/vendor/libfaketime/src/libfaketime.so.1",
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@dataclass(frozen=True)
class Try:
    """What jumps of the clocks led to."""

    exit_code: int | None
    seconds_without_step: float
    """The longest pause between two steps from the first jump on, by a clock that does not jump."""
    resumed_from: list[int]
    """None of these: the workers were never started again."""
    points_missing: int
    points_doubled: int
    same_weights: bool


def jump(training: Training, clock: Clock, after_seconds: float) -> float:
    """Let the clock jump while the training runs, to its end: the longest pause between two steps."""
    jumps = [(after_seconds + i * BETWEEN_SECONDS, seconds) for i, seconds in enumerate(JUMPS_SECONDS)]
    while not training.steps():
        assert training.process.poll() is None, training.log.read_text()
        time.sleep(0.1)
    made, began = 0, time.monotonic()
    moments = [began]
    while training.process.poll() is None and time.monotonic() - moments[-1] < PATIENCE_SECONDS:
        if jumps and time.monotonic() - began >= jumps[0][0]:
            clock.set(jumps.pop(0)[1])
        if (steps := len(training.steps())) > made:
            made = steps
            moments.append(time.monotonic())
        time.sleep(0.1)
    assert not jumps, "the training ended before its clocks had jumped"
    return max(later - earlier for earlier, later in pairwise(moments))


def try_once(after_seconds: float) -> Try:
    """A training whose clocks jump, after one whose clocks do not, on a cluster of their own.

    Ray's timers follow the clock: once it was set back, the nodes have nothing new to tell for as long.
    """
    with TemporaryDirectory(prefix="clock-") as temporary:
        folder = Path(temporary)
        clock = Clock(folder / "clock")
        with Testbed(folder, clock.environment()) as bed:
            pack(PackOptions("digits", folder / "digits", workers=1))
            undisturbed = Training.start(bed, folder / "undisturbed", *FLAGS)
            assert undisturbed.end() == 0, undisturbed.log.read_text()
            weights = entry_point.result(undisturbed.out)["weights_sha256"]
            training = Training.start(bed, folder / "struck", *FLAGS)
            pause = jump(training, clock, after_seconds)
            code = training.end()
            training.deliver()
            found = entry_point.result(training.out) if code == 0 else {}
            steps = [step for step, _ in bed.points(training.out.name)]
    return Try(
        exit_code=code,
        seconds_without_step=pause,
        resumed_from=found.get("resumed_from", []),
        points_missing=STEPS - len({*steps}),
        points_doubled=len(steps) - len({*steps}),
        same_weights=found.get("weights_sha256") == weights,
    )


def main() -> None:
    """Try, print each try, write them."""
    parser = argparse.ArgumentParser(description="Clocks that jump while a training runs.")
    parser.add_argument("--tries", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    moments, tries = random.Random(options.seed), []
    for _ in range(options.tries):
        tries.append(try_once(moments.uniform(0, LATEST_SECONDS)))
        print(tries[-1], flush=True)
    if options.out:
        options.out.write_text(json.dumps([asdict(each) for each in tries], indent=1) + "\n")
    wrong = [each for each in tries if not each.same_weights or each.points_missing + each.points_doubled]
    sys.exit(f"{len(wrong)} of {len(tries)} were not as promised" if wrong else 0)


if __name__ == "__main__":
    main()
