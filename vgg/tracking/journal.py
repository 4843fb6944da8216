"""Lines appended to a file, and in memory while the disk takes none."""

import os
import threading
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from vgg.tracking.plain_files import open_plain

MAX_UNWRITTEN = 100_000
"""Lines in memory, beyond which those that may be dropped are: a training with a full disk must not fill the
memory too."""


class Journal:
    """Any thread appends, one reads.

    A position is the number of bytes before it of all lines, written or not; a written line has in the file the
    position that it had in memory, less `_skipped_bytes`.
    """

    def __init__(self, path: Path, report: Callable[[OSError], None]) -> None:
        """`report` is told that the file cannot be written."""
        self._path, self._report = path, report
        self._mutex = threading.Lock()
        self._descriptor: int | None = None
        self._unwritten: deque[bytes] = deque()
        self._skipped_bytes = 0  # of lines that were delivered from memory, and never written
        self.dropped = 0

    @property
    def unwritten(self) -> int:
        """Lines that are in memory alone."""
        return len(self._unwritten)

    def append(self, line: bytes, *, droppable: bool) -> None:
        """Add a line, which ends with a newline. Once it is written it survives the end of this process."""
        with self._mutex:
            if droppable and len(self._unwritten) >= MAX_UNWRITTEN:
                self.dropped += 1
            else:
                self._unwritten.append(line)
            self._write_out()

    def write_out(self) -> None:
        """Try again to write what is in memory, and end a line that a power failure cut short."""
        with self._mutex:
            self._write_out()

    def size(self) -> int:
        """Bytes in the file."""
        return self._path.stat().st_size if self._path.is_file() else 0

    def read(self, position: int, limit: int) -> list[tuple[bytes, int]]:
        """The complete lines from a position on, each with the position after it."""
        lines: list[tuple[bytes, int]] = []
        with self._mutex:
            written = self.size()
            unwritten = tuple(islice(self._unwritten, limit))
            skipped = self._skipped_bytes
        if position < written + skipped:
            with open_plain(self._path, "rb") as file:
                file.seek(position - skipped)
                while len(lines) < limit and file.tell() < written:
                    line = file.readline()
                    if not line.endswith(b"\n"):
                        break
                    lines.append((line, file.tell() + skipped))
        end = written + skipped
        for line in unwritten:
            end += len(line)
            if end > position and len(lines) < limit:
                lines.append((line, end))
        return lines

    def forget(self, position: int) -> int:
        """Drop what lies before a position from memory; the number of bytes before it in the file."""
        with self._mutex:
            written = self.size()
            beyond = position - self._skipped_bytes - written
            while beyond > 0 and self._unwritten and len(self._unwritten[0]) <= beyond:
                line = self._unwritten.popleft()
                self._skipped_bytes += len(line)
                beyond -= len(line)
            return min(position - self._skipped_bytes, written)

    def _write_out(self) -> None:
        try:
            if self._descriptor is None:
                self._descriptor = self._open()
            while self._unwritten:
                _write_line(self._descriptor, self._unwritten[0])
                self._unwritten.popleft()
        except OSError as error:
            self._report(error)

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open_plain(self._path, "a+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
            if size and file.read(1) != b"\n":
                file.write(b"\n")  # the next event starts on a line of its own
                file.flush()
            return os.dup(file.fileno())


def _write_line(descriptor: int, line: bytes) -> None:
    """Append a line, or nothing of it. OSError if the disk does not take it."""
    before = os.fstat(descriptor).st_size
    try:
        left = memoryview(line)
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError:
        os.ftruncate(descriptor, before)
        raise
