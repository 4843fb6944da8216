"""Progress of long work: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_EVERY_SECONDS = 5.0


class ProgressMeter:
    """Counts units of work towards a total; a context manager."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done, self._started = 0, time.monotonic()
        self._told = self._started
        self._bar = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(f"{unit}, {{task.fields[rate]:.0f}}/s,"),
                TimeRemainingColumn(),
                TextColumn("left"),
            )
            self._task = self._bar.add_task(what, total=total, rate=0.0)

    def __enter__(self) -> "ProgressMeter":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            self._line()

    def advance(self, units: int) -> None:
        """Count so many more."""
        self._done += units
        if self._bar is not None:
            self._bar.update(self._task, advance=units, rate=self._rate())
        elif time.monotonic() - self._told >= PLAIN_EVERY_SECONDS:
            self._line()

    def _rate(self) -> float:
        return self._done / max(time.monotonic() - self._started, 1e-9)

    def _line(self) -> None:
        self._told = time.monotonic()
        left = (self._total - self._done) / max(self._rate(), 1e-9)
        print(
            f"{self._what}: {self._done:,} of {self._total:,} {self._unit}, "
            f"{self._rate():,.0f}/s, {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
