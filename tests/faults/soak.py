"""An hour of faults: one training that is struck about once a minute, and what it costs.

    python -m tests.faults.soak --minutes 60 --out soak.json
    python -m tests.faults.soak --faults sigterm --pause 0 10 --share 0.1    # one fault, as often as may be

measure how long a step takes, and choose the number of steps by it
start the training; until the time is over strike at random moments, repeat a command that ended
let it come to its end; make the same steps without faults
compare weights and losses, count the points in MLflow, say where each second went and what has grown
"""

import json
import math
import random
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import tyro

from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from tests import entry_point
from tests.faults.effective import Strike, spent, typical_seconds
from tests.faults.lasting import Sample, Sampler, growths
from tests.faults.soak_result import Result, by_fault, of_each, print_tables, steps_again
from tests.faults.soak_strikes import STRIKES
from tests.faults.testbed import WORKERS, Testbed
from tests.faults.training import Training

FLAGS = (
    "--train.checkpoint-steps=10",
    "--train.validation-steps=50",
    "--train.log-steps=1",
    f"--layout.workers={WORKERS}",
    "--layout.wait-seconds=120",
    "--layout.hang-seconds=20",
    "--layout.max-failures=1000",
)
PACE_STEPS = 60
STUCK_SECONDS = 400.0
"""Without a step the training hangs, whatever has struck it."""


@dataclass(frozen=True)
class Options:
    """A training that is struck by a random fault about once a minute."""

    minutes: float = 60.0
    """How long faults strike."""
    faults: tuple[str, ...] = tuple(STRIKES)
    pause: tuple[float, float] = 10.0, 50.0
    """Seconds from the first step after a fault to the next fault: about a minute lies between two."""
    share: float = 0.5
    """Of that time, which the steps would take without faults: a training that ends early is struck no more."""
    seed: int = 0
    folder: Path | None = None
    """Where all is kept. None: it is removed at the end."""
    out: Path | None = None
    """JSON file for the result."""


class Soak:
    """The training and what strikes it."""

    def __init__(self, bed: Testbed, out: Path, steps: int, options: Options) -> None:
        self._bed, self._out, self._options = bed, out, options
        self._moments = random.Random(options.seed)
        self._flags = (*FLAGS, f"--train.steps={steps}")
        self.began = time.time()
        self.strikes: list[Strike] = []
        self.changes: list[float] = []
        """When new workers were seen, or a command ended."""
        self.exit_codes: list[int] = []
        self.training = self._start()
        self._is_over = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def run(self, seconds: float) -> None:
        """Strike for so long, and wait for the end."""
        until, names = time.time() + seconds, list[str]()
        struck_at, next_at = self.began, math.inf
        while (code := self.training.process.poll()) != 0:
            if code is not None:
                self._note_end(code)
                self._bed.repair()
                self.training = self._start()
            if next_at == math.inf and self._goes_on_since(struck_at):
                next_at = time.time() + self._moments.uniform(*self._options.pause)
            if next_at <= time.time() < until and self._can_be_struck():
                # Each as often as the others, in a new order each time.
                names = names or self._moments.sample(self._options.faults, len(self._options.faults))
                self._strike(names.pop())
                struck_at, next_at = time.time(), math.inf
            time.sleep(0.5)
        self._note_end(code)
        self.ended = time.time()
        self._is_over.set()
        self.training.deliver()

    def write(self, file: Path, samples: list[Sample]) -> None:
        """All that was noted."""
        strikes = [asdict(each) for each in self.strikes]
        noted = {"began": self.began, "ended": self.ended, "changes": sorted(self.changes)}
        file.write_text(json.dumps({**noted, "strikes": strikes, "samples": samples}))

    def processes(self) -> dict[str, list[psutil.Process]]:
        """What lasts, and what comes and goes."""
        with suppress(psutil.NoSuchProcess):
            return {"the command": [self.training.driver], **self._lasting()}
        return self._lasting()

    def _lasting(self) -> dict[str, list[psutil.Process]]:
        return {
            "workers": self._bed.named("RayTrainWorker"),
            "GCS": self._bed.named("/gcs_server "),
            "dashboard": self._bed.named("dashboard/dashboard.py"),
            "raylets": self._bed.named("raylet/raylet "),
            "MLflow": self._bed.server(),
        }

    def _start(self) -> Training:
        return Training.start(self._bed, self._out, *self._flags)

    def _note_end(self, code: int) -> None:
        self.exit_codes.append(code)
        self.changes.append(time.time())
        print(f"{time.strftime('%X')} the command ended with {code}", flush=True)

    def _can_be_struck(self) -> bool:
        is_saved = (self._out / "checkpoints" / "index.json").exists()
        return is_saved and self.training.process.poll() is None and any(self._bed.workers().values())

    def _strike(self, name: str) -> None:
        title, strike = STRIKES[name]
        print(f"{time.strftime('%X')} {title}", flush=True)
        self.strikes.append(Strike(title, time.time()))
        try:
            strike(self.training)
        except (psutil.NoSuchProcess, IndexError):  # its workers went meanwhile: an end of their own
            self.strikes.pop()

    def _look(self) -> None:
        known: set[int] = set()
        while not self._is_over.wait(1):
            found = {each.pid for each in self._bed.named("RayTrainWorker")}
            if found - known:
                self.changes.append(time.time())
            known |= found

    def _goes_on_since(self, moment: float) -> bool:
        """Whether a step was made since then. TimeoutError where the training hangs."""
        latest = self.training.last_step_at()
        if time.time() - max([latest, moment, *self.changes]) > STUCK_SECONDS:
            raise TimeoutError(f"no step:\n{self.training.log.read_text(errors='replace')[-5000:]}")
        return latest > moment


def _undisturbed(bed: Testbed, name: str, steps: int) -> tuple[Path, float]:
    """The folder of such a training, and seconds a step."""
    training = Training.start(bed, bed.folder / name, *FLAGS, f"--train.steps={steps}")
    assert training.process.wait() == 0, training.log.read_text()
    return training.out, typical_seconds(training.steps())


def soak(bed: Testbed, options: Options) -> Result:
    """Train under faults and without, and compare."""
    pack(PackOptions("digits", bed.folder / "digits", workers=1))
    _, pace = _undisturbed(bed, "pace", PACE_STEPS)
    steps = round(options.minutes * 60 * options.share / pace)
    print(f"{steps:,} steps: one takes {pace:.2f} s", flush=True)
    struck = Soak(bed, bed.folder / "struck", steps, options)
    folders = {"Ray's temporary folder": Path(bed.head.folder), "temporary folder": bed.temporary}
    sampler = Sampler(struck.processes, folders | {"OUT/ray": struck.training.out / "ray"})
    struck.run(options.minutes * 60)
    samples = sampler.stop()
    struck.write(bed.folder / "struck.json", samples)
    made, out = struck.training.steps(), struck.training.out
    used = spent(made, struck.strikes, sorted(struck.changes), struck.began, struck.ended)
    undisturbed, undisturbed_pace = _undisturbed(bed, "undisturbed", steps)
    found, expected = entry_point.result(out), entry_point.result(undisturbed)
    points = [step for step, _ in bed.points(out.name)]
    return Result(
        minutes=options.minutes,
        steps=steps,
        strikes=dict(Counter(each.fault for each in struck.strikes)),
        exit_codes=dict(Counter(map(str, struck.exit_codes))),
        same_weights=found["weights_sha256"] == expected["weights_sha256"],
        same_losses=found["losses"] == expected["losses"],
        points_missing=len({*range(1, steps + 1)} - {*points}),
        points_doubled=len(points) - len({*points}),
        seconds=struck.ended - struck.began,
        effective_time_ratio=used.ratio,
        seconds_lost=by_fault(used),
        seconds_of_each=of_each(used, struck.strikes),
        steps_again=steps_again(used),
        seconds_a_step=typical_seconds(made),
        seconds_a_step_undisturbed=undisturbed_pace,
        held=growths(samples),
    )


def main() -> None:
    """Run, print, write."""
    options = tyro.cli(Options, prog="python -m tests.faults.soak")
    with TemporaryDirectory(prefix="soak-") as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        with Testbed(folder) as bed:
            result = soak(bed, options)
    print_tables(result)
    if options.out:
        options.out.write_text(json.dumps(asdict(result), indent=1) + "\n")
    sys.exit(0 if result.is_as_promised else "not as promised")


if __name__ == "__main__":
    main()
