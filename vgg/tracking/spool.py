"""A folder in which events wait for delivery: appended at once, delivered in order, each remembered.

run.json       what the tracked run is
events.jsonl   one event a line, in order
files/         artifacts that events point to
sent.json      how many bytes of events.jsonl were delivered
rejected.jsonl events that the server refused for good, with its reason
lock           held by the one process that delivers
"""

import errno
import fcntl
import json
import os
import threading
from pathlib import Path
from typing import Any, BinaryIO

LOCKS_UNKNOWN = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}  # file systems that cannot lock


class Spool:
    """The folder. Any thread may append; one delivers, and only that one reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "files").mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file = (folder / "events.jsonl").open("a+b")
        size = self._file.tell()
        if size:  # a power cut may have left half a line
            self._file.seek(size - 1)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")
                self._file.flush()
        self._number = sum(1 for _ in (folder / "files").iterdir())
        self._claim: BinaryIO | None = None
        self._sent = 0
        self.news = threading.Event()

    def append(self, event: dict[str, Any]) -> None:
        """Add an event. It survives this process from here on."""
        line = json.dumps(event).encode() + b"\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()
        self.news.set()

    def new_file(self, suffix: str) -> Path:
        """A name for an artifact, not yet taken."""
        with self._lock:
            self._number += 1
            return self.folder / "files" / f"{self._number:06d}{suffix}"

    def claim(self) -> bool:
        """Become the one that delivers. False where another process, or another spool of this one, is."""
        if self._claim is not None:
            return True
        file = (self.folder / "lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in LOCKS_UNKNOWN:
                file.close()
                if not isinstance(error, BlockingIOError):
                    raise
                return False
        self._claim = file
        state = self.read_json("sent.json")
        # A power cut may have taken events that were delivered already.
        size = (self.folder / "events.jsonl").stat().st_size
        self._sent = min(state["bytes"], size) if state else 0
        return True

    def release(self) -> None:
        """Let another deliver."""
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def waiting(self, most: int = 1000) -> list[tuple[dict[str, Any], int]]:
        """The next undelivered events, each with the position after it."""
        assert self._claim is not None, "claim the spool first"
        position = self._sent
        events: list[tuple[dict[str, Any], int]] = []
        with (self.folder / "events.jsonl").open("rb") as file:
            file.seek(position)
            for line in file:
                if not line.endswith(b"\n") or len(events) == most:
                    break
                position += len(line)
                events.append((_read(line), position))
        return events

    def delivered(self, position: int) -> None:
        """Remember that all before `position` was delivered."""
        self.write_json("sent.json", {"bytes": position})
        self._sent = position

    def reject(self, event: dict[str, Any], reason: str) -> None:
        """Keep an event that the server will never take."""
        with (self.folder / "rejected.jsonl").open("a") as file:
            file.write(json.dumps({"reason": reason, "event": event}) + "\n")

    def write_json(self, name: str, value: Any) -> None:
        """Write a file of the folder at once."""
        partial = self.folder / f"{name}.{os.getpid()}.partial"
        with partial.open("w") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.folder / name)

    def read_json(self, name: str) -> Any:
        """A file of the folder, or None."""
        file = self.folder / name
        return json.loads(file.read_text()) if file.is_file() else None


def _read(line: bytes) -> dict[str, Any]:
    """An event; one of kind `unreadable` for what a power cut left of one."""
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        return {"kind": "unreadable", "line": line.decode(errors="replace")}
    return event
