"""A training on the testbed, as a user starts it, and what its log says."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.faults.effective import Step
from tests.faults.testbed import Testbed

PATIENCE_SECONDS = 400.0
TAIL_BYTES = 100_000
"""Of a spool, in which the newest step is found."""
NAMED = "does not go on"
"""What the log says of a worker that hangs."""
DELIVERY = re.compile(r"python (-m vgg\.track \S+ --uri \S+)")


@dataclass(frozen=True)
class Training:
    """One that runs."""

    bed: Testbed
    process: subprocess.Popen[bytes]
    command: list[str]
    out: Path
    log: Path

    @classmethod
    def start(cls, bed: Testbed, out: Path, *flags: str) -> "Training":
        """The digits, tracked as an experiment of the run's folder's name; what it says is added to its log."""
        log = bed.folder / f"{out.name}.log"
        places = f"--data={bed.folder}/digits", f"--out={out}"
        tracked = f"--track={bed.tracking_uri}", f"--experiment={out.name}"
        command = [sys.executable, "-m", "vgg.train", "digits", *places, *tracked, *flags]
        return cls(bed, bed.start(command, log), command, out, log)

    @property
    def driver(self) -> psutil.Process:
        """The command itself."""
        return psutil.Process(self.process.pid)

    def steps(self) -> list[Step]:
        """Every making of a step, in order, by the spool in the run's folder."""
        files = self.out.glob("spool-*/events.jsonl")
        return [step for file in files for step in _steps(file.read_text(errors="replace"))]

    def last_step_at(self) -> float:
        """Unix time of the newest step; 0 before the first."""
        latest = 0.0
        for file in self.out.glob("spool-*/events.jsonl"):
            with file.open("rb") as events:
                events.seek(max(0, file.stat().st_size - TAIL_BYTES))
                for step in _steps(events.read().decode(errors="replace")):
                    latest = max(latest, step.at)
        return latest

    def end(self, seconds: float = PATIENCE_SECONDS) -> int | None:
        """Wait for its end: the exit code; None where it had to be ended."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None

    def deliver(self) -> None:
        """What its end has left to a command of its own."""
        if told := DELIVERY.search(self.log.read_text(errors="replace")):
            delivering = self.bed.start([sys.executable, *told[1].split()], self.log)
            assert delivering.wait(PATIENCE_SECONDS) == 0, self.log.read_text()


def _steps(events: str) -> Iterator[Step]:
    for line in events.splitlines():
        if '"train/loss"' in line:
            with suppress(ValueError):  # cut short
                event = json.loads(line)
                yield Step(event["step"], event["time"] / 1000)


class Watch:
    """Notes when a log first names a worker that does not go on."""

    def __init__(self, log: Path) -> None:
        self._log, self._known = log, len(log.read_text(errors="replace"))
        self._named_at: float | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            if NAMED in self._log.read_text(errors="replace")[self._known :]:
                self._named_at = time.time()
                return

    def stop(self) -> float | None:
        """Look no more; Unix time of what was noted."""
        self._ended.set()
        self._thread.join()
        return self._named_at
