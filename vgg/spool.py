"""A folder in which events wait for delivery: appended at once, delivered in order, each remembered.

run.json      what the tracked run is
events.jsonl  one event a line, in order
files/        artifacts that events point to
sent.json     how many bytes of events.jsonl were delivered
rejected.jsonl events that the server refused for good, with its reason
"""

import json
import os
import threading
from pathlib import Path
from typing import Any


class Spool:
    """The folder. Any thread may append; one delivers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "files").mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file = (folder / "events.jsonl").open("ab")
        self._number = sum(1 for _ in (folder / "files").iterdir())
        self.news = threading.Event()

    def append(self, event: dict[str, Any]) -> None:
        """Add an event. It survives this process from here on."""
        line = json.dumps(event, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()
        self.news.set()

    def new_file(self, suffix: str) -> Path:
        """A name for an artifact, not yet taken."""
        with self._lock:
            self._number += 1
            return self.folder / "files" / f"{self._number:06d}{suffix}"

    def waiting(self, most: int = 1000) -> tuple[list[dict[str, Any]], int]:
        """The next undelivered events, and the position after them."""
        position = self._sent()
        events: list[dict[str, Any]] = []
        with (self.folder / "events.jsonl").open("rb") as file:
            file.seek(position)
            for line in file:
                if not line.endswith(b"\n") or len(events) == most:
                    break
                events.append(json.loads(line))
                position += len(line)
        return events, position

    def delivered(self, position: int) -> None:
        """Remember that all before `position` was delivered."""
        self.write_json("sent.json", {"bytes": position})

    def reject(self, event: dict[str, Any], reason: str) -> None:
        """Keep an event that the server will never take."""
        with (self.folder / "rejected.jsonl").open("a") as file:
            file.write(json.dumps({"reason": reason, **event}) + "\n")

    def write_json(self, name: str, value: Any) -> None:
        """Write a file of the folder at once."""
        partial = self.folder / f"{name}.{os.getpid()}.partial"
        partial.write_text(json.dumps(value))
        partial.replace(self.folder / name)

    def read_json(self, name: str) -> Any:
        """A file of the folder, or None."""
        file = self.folder / name
        return json.loads(file.read_text()) if file.is_file() else None

    def _sent(self) -> int:
        state = self.read_json("sent.json")
        return state["bytes"] if state else 0
