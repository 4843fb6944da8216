"""Progress of a long task on standard error: a bar on a terminal, otherwise a line every few seconds."""

import sys
import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 5.0


class ProgressMeter:
    """Counts units of work towards a total; a context manager."""

    def __init__(self, description: str, total: int, unit: str) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._done, self._started = 0, time.monotonic()
        self._last_line = self._started
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
            self._task = self._bar.add_task(description, total=total, rate=0.0)

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
            self._print_line()

    def advance(self, units: int) -> None:
        """Count `units` more as done."""
        self._done += units
        if self._bar is not None:
            self._bar.update(self._task, advance=units, rate=self._units_per_second())
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._print_line()

    def _units_per_second(self) -> float:
        return self._done / max(time.monotonic() - self._started, 1e-9)

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        rate = self._units_per_second()
        seconds_left = (self._total - self._done) / max(rate, 1e-9)
        print(
            f"{self._description}: {self._done:,} of {self._total:,} {self._unit}, "
            f"{rate:,.0f}/s, {seconds_left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
