"""A folder of events that wait for delivery: appended at once, delivered in order, progress remembered.

run.json       the RunInfo of the tracked run
events.jsonl   one event a line, in order (see vgg.tracking.delivery for the kinds)
files/         artifacts that events refer to
sent.json      number of bytes of events.jsonl that are delivered
rejected.jsonl events that cannot be delivered, each with the reason
lock           held by the one process that delivers

A disk that is full or fails stops nothing: what cannot be written is kept in memory and delivered from there.
"""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event as Flag
from threading import Lock
from typing import Any

from filelock import FileLock, Timeout

from cli.errors import UserError
from pipelines.storage.atomic import atomic_file
from vgg.tracking.journal import Journal
from vgg.tracking.messages import print_message
from vgg.tracking.plain_files import open_plain, opened_below, require_plain

Event = dict[str, Any]
FILES = ("run.json", "events.jsonl", "sent.json", "rejected.jsonl", "lock")
LOCKED_BY_NOBODY = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""The file system cannot lock, or has no room for a lock, so that nobody else has one."""


class Spool:
    """One such folder. Any thread may append; the thread that holds the lock reads and delivers."""

    def __init__(self, folder: Path) -> None:
        """UserError if the folder's files are links to others."""
        self.folder = folder
        require_plain(folder, FILES, "files")
        self._told_of_disk = False
        with self._telling():
            (folder / "files").mkdir(parents=True, exist_ok=True)
        self._journal = Journal(folder / "events.jsonl", self._tell_of_disk)
        self._journal.write_out()
        self._file_mutex = Lock()
        self._file_count = _highest_number(folder / "files")
        self._unwritten_info: Event | None = None
        # No fallback: where the file system cannot lock, its marker file would outlive a killed process.
        self._delivery_lock = FileLock(
            folder / "lock", blocking=False, thread_local=False, fallback_to_soft=False
        )
        self._locked = False
        self._delivered = 0
        self._rejected: set[str] | None = None
        self.appended = Flag()
        """Set by each `append`; the thread that delivers clears it."""

    def describe(self, info: Event) -> None:
        """Write run.json, now or as soon as the disk takes it."""
        self._unwritten_info = info
        self._write_info()

    def append(self, event: Event) -> None:
        """Add an event. It survives the end of this process, or the user is told that the disk is full."""
        if self._unwritten_info is not None:
            self._write_info()
        self._journal.append(json.dumps(event).encode() + b"\n", droppable=event["kind"] == "metrics")
        self.appended.set()

    def lost_at_the_end(self) -> str | None:
        """What the disk did not take up to now, for the user; None if it took all."""
        self._journal.write_out()
        if self._unwritten_info is not None:
            self._write_info()
        if not (self._journal.unwritten or self._journal.dropped):
            return None
        return (
            f"{self._journal.unwritten:,} records are in memory alone and {self._journal.dropped:,} were "
            f"dropped, as {self.folder} cannot be written"
        )

    def new_file(self, suffix: str) -> Path:
        """An unused path below files/ for an artifact."""
        with self._file_mutex:
            self._file_count += 1
            return self.folder / "files" / f"{self._file_count:06d}{suffix}"

    @contextmanager
    def opened(self, name: str) -> Iterator[Path]:
        """A path to the artifact `name` of files/. NotPlain if it is another file's name, FileNotFoundError."""
        with opened_below(self.folder / "files", name) as path:
            yield path

    def lock_for_delivery(self) -> bool:
        """Take the delivery lock. False where another process, or another Spool object, holds it."""
        if self._locked:
            return True
        try:
            self._delivery_lock.acquire()
        except Timeout:
            return False
        except OSError as error:
            if error.errno not in LOCKED_BY_NOBODY:
                raise
        self._locked = True
        sent = self.read_json("sent.json")
        # After a power failure the file may be shorter than what was delivered.
        self._delivered = min(sent["bytes"], self._journal.size()) if sent else 0
        return True

    def unlock(self) -> None:
        """Let another process or object deliver."""
        self._delivery_lock.release()
        self._locked = False

    def pending(self, limit: int = 1000) -> list[tuple[Event, int]]:
        """The next undelivered events, each with the position after it."""
        assert self._locked, "lock the spool first"
        return [(_parse(line), after) for line, after in self._journal.read(self._delivered, limit)]

    def all_events(self) -> Iterator[Event]:
        """All events, delivered or not."""
        position = 0
        while lines := self._journal.read(position, 1000):
            yield from (_parse(line) for line, _ in lines)
            position = lines[-1][1]

    def mark_delivered(self, position: int) -> None:
        """Record that all events before this position are delivered."""
        bytes_in_file = self._journal.forget(position)
        self._delivered = position
        with self._telling():
            self.write_json("sent.json", {"bytes": bytes_in_file})

    def reject(self, event: Event, reason: str) -> bool:
        """Keep an event that cannot be delivered; whether this is news."""
        line = json.dumps({"reason": reason, "event": event}) + "\n"
        file = self.folder / "rejected.jsonl"
        if self._rejected is None:
            self._rejected = set()
            if file.exists():
                with open_plain(file, "r") as kept:
                    self._rejected.update(kept)
        if line in self._rejected:
            return False
        self._rejected.add(line)
        with self._telling(), open_plain(file, "a") as kept:
            kept.write(line)
        return True

    def write_json(self, name: str, value: Any) -> None:
        """Replace a file of the folder atomically."""
        with atomic_file(self.folder / name, "w") as file:
            json.dump(value, file)

    def read_json(self, name: str) -> Any:
        """The value of a file of the folder, or None where there is none. UserError where it is not JSON."""
        file = self.folder / name
        try:
            with open_plain(file, "r") as text:
                return json.load(text)
        except FileNotFoundError:
            return None
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{file} is not JSON ({error}): the file is damaged") from error

    def _write_info(self) -> None:
        with self._telling():
            self.write_json("run.json", self._unwritten_info)
            self._unwritten_info = None

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Go on without what the disk does not take, and tell."""
        try:
            yield
        except OSError as error:
            self._tell_of_disk(error)

    def _tell_of_disk(self, error: OSError) -> None:
        if not self._told_of_disk:
            self._told_of_disk = True
            print_message(
                f"{self.folder} cannot be written ({error.strerror or error}): records are kept in memory, and "
                "delivered from there while the server answers; those left when this process ends are lost"
            )


def _highest_number(folder: Path) -> int:
    """The highest number among the names of a spool's files."""
    highest = 0
    with suppress(OSError):
        for file in folder.iterdir():
            highest = max(highest, int(file.stem) if file.stem.isdecimal() else 0)
    return highest


def _parse(line: bytes) -> Event:
    """The event of a line; one of kind `unreadable` for a line that was cut short or is no event."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("kind"), str):
        return {"kind": "unreadable", "line": line.decode(errors="replace")}
    return event
