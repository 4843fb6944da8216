"""A study's progress on standard error: a table on a terminal, otherwise a line for every step that ends."""

import sys
import time
from collections.abc import Mapping, Sequence

from rich.live import Live
from rich.table import Table

from cli.console import console
from vgg.studies.cost import duration, remaining_seconds
from vgg.studies.graph import Node

SECONDS_BETWEEN_LINES = 30.0


class StudyProgress:
    """Shows states and time left; a context manager."""

    def __init__(self, nodes: Sequence[Node], seconds: Mapping[str, float]) -> None:
        """`seconds`: what each node is expected to take, of those that are not done."""
        self._nodes, self._seconds, self.at_once = nodes, dict(seconds), 1
        self._last: dict[str, str] = {}
        self._told, self._began = time.monotonic(), time.monotonic()
        self._console = console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False) if sys.stderr.isatty() else None

    def __enter__(self) -> "StudyProgress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, states: Mapping[str, str], shares: Mapping[str, float], notes: Mapping[str, str]) -> None:
        """`states`: of every node; `shares`: how much of a running one is done; `notes`: added to a state."""
        left = duration(self._left(states, shares))
        if self._live is not None:
            self._live.update(self._table(states, shares, notes, left), refresh=True)
            return
        ended = sum(state in ("done", "failed", "not run") for state in states.values())
        running = [f"{name} {100 * share:.0f} %" for name, share in shares.items()]
        for name, state in states.items():
            if state != self._last.get(name) and state in ("done", "failed", "not run"):
                note = f" ({notes[name]})" if name in notes else ""
                self._print(f"{name} {state}{note}; {ended} of {len(states)} steps, about {left} left")
        self._last = dict(states)
        if time.monotonic() - self._told >= SECONDS_BETWEEN_LINES:
            self._print(
                f"running: {', '.join(running) or 'nothing'}; {ended} of {len(states)}, about {left} left"
            )

    def _print(self, line: str) -> None:
        self._told = time.monotonic()
        print(line, file=sys.stderr, flush=True)

    def _left(self, states: Mapping[str, str], shares: Mapping[str, float]) -> float:
        seconds = {
            node.name: self._seconds.get(node.name, 0.0) * (1 - shares.get(node.name, 0.0))
            for node in self._nodes
            if states[node.name] in ("waiting", "running")
        }
        return remaining_seconds(self._nodes, seconds, self.at_once)

    def _table(
        self, states: Mapping[str, str], shares: Mapping[str, float], notes: Mapping[str, str], left: str
    ) -> Table:
        ended = sum(state in ("done", "failed", "not run") for state in states.values())
        spent = duration(time.monotonic() - self._began)
        table = Table(
            "step", "state", "", title=f"{ended} of {len(states)} steps, {spent} so far, about {left} left"
        )
        styles = {"done": "green", "running": "yellow", "failed": "red", "not run": "dim", "waiting": "dim"}
        rows = [node.name for node in self._nodes]
        room = max(5, self._console.height - 6)
        if len(rows) > room:  # what happens now, and what went wrong
            rows = [name for name in rows if states[name] in ("running", "failed")][:room]
        for name in rows:
            share = f"{100 * shares[name]:.0f} %" if name in shares else notes.get(name, "")
            table.add_row(name, states[name], share, style=styles[states[name]])
        return table
