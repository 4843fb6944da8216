"""A folder of events that wait for delivery: appended at once, delivered in order, progress remembered.

run.json       the RunInfo of the tracked run
events.jsonl   one event a line, in order (see vgg.tracking.delivery for the kinds)
files/         artifacts that events refer to
sent.json      number of bytes of events.jsonl that are delivered
rejected.jsonl events that the server rejected permanently, with its reason
lock           held by the one process that delivers
"""

import errno
import json
import threading
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cli.errors import UserError
from pipelines.storage.atomic import atomic_file

Event = dict[str, Any]
LOCKING_UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}


class Spool:
    """One such folder. Any thread may append; the thread that holds the lock reads and delivers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "files").mkdir(parents=True, exist_ok=True)
        self._append_mutex = threading.Lock()
        self._events_file = (folder / "events.jsonl").open("a+b")
        self._end_last_line()
        self._file_count = sum(1 for _ in (folder / "files").iterdir())
        # No fallback: where the file system cannot lock, its marker file would outlive a killed process.
        self._delivery_lock = FileLock(
            folder / "lock", blocking=False, thread_local=False, fallback_to_soft=False
        )
        self._locked = False
        self._delivered_bytes = 0
        self.appended = threading.Event()
        """Set by each `append`; the thread that delivers clears it."""

    def append(self, event: Event) -> None:
        """Add an event. It survives the end of this process from here on."""
        line = json.dumps(event).encode() + b"\n"
        with self._append_mutex:
            self._events_file.write(line)
            self._events_file.flush()
        self.appended.set()

    def new_file(self, suffix: str) -> Path:
        """An unused path below files/ for an artifact."""
        with self._append_mutex:
            self._file_count += 1
            return self.folder / "files" / f"{self._file_count:06d}{suffix}"

    def lock_for_delivery(self) -> bool:
        """Become the one that delivers. False where another process, or another Spool object, already is."""
        if self._locked:
            return True
        try:
            self._delivery_lock.acquire()
        except Timeout:
            return False
        except OSError as error:
            if error.errno not in LOCKING_UNSUPPORTED:
                raise
        self._locked = True
        sent = self.read_json("sent.json")
        # After a power failure the file may be shorter than what was delivered.
        size = (self.folder / "events.jsonl").stat().st_size
        self._delivered_bytes = min(sent["bytes"], size) if sent else 0
        return True

    def unlock(self) -> None:
        """Let another process or object deliver."""
        self._delivery_lock.release()
        self._locked = False

    def pending(self, limit: int = 1000) -> list[tuple[Event, int]]:
        """The next undelivered events, each with the byte position after it."""
        assert self._locked, "lock the spool first"
        position = self._delivered_bytes
        events: list[tuple[Event, int]] = []
        with (self.folder / "events.jsonl").open("rb") as file:
            file.seek(position)
            for line in file:
                if not line.endswith(b"\n") or len(events) == limit:
                    break
                position += len(line)
                events.append((_parse(line), position))
        return events

    def mark_delivered(self, position: int) -> None:
        """Record that all events before this byte position are delivered."""
        self.write_json("sent.json", {"bytes": position})
        self._delivered_bytes = position

    def reject(self, event: Event, reason: str) -> None:
        """Keep an event that the server will never accept."""
        with (self.folder / "rejected.jsonl").open("a") as file:
            file.write(json.dumps({"reason": reason, "event": event}) + "\n")

    def write_json(self, name: str, value: Any) -> None:
        """Replace a file of the folder atomically."""
        with atomic_file(self.folder / name, "w") as file:
            json.dump(value, file)

    def read_json(self, name: str) -> Any:
        """The value of a file of the folder, or None where there is none. UserError where it is not JSON."""
        file = self.folder / name
        try:
            return json.loads(file.read_text()) if file.is_file() else None
        except ValueError as error:
            raise UserError(f"{file} is not JSON ({error}): the file is damaged") from error

    def _end_last_line(self) -> None:
        """End a line that a power failure cut short: the next event starts on a line of its own."""
        size = self._events_file.tell()
        if size:
            self._events_file.seek(size - 1)
            if self._events_file.read(1) != b"\n":
                self._events_file.write(b"\n")
                self._events_file.flush()


def _parse(line: bytes) -> Event:
    """The event of a line; one of kind `unreadable` for a line that was cut short."""
    try:
        event: Event = json.loads(line)
    except ValueError:
        return {"kind": "unreadable", "line": line.decode(errors="replace")}
    return event
