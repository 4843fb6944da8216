"""log.txt of a training's folder: what its log says, for when the cluster that printed it is gone."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from cli.errors import Failure, UserError
from pipelines.storage.folder import Folder
from vgg.tracking.messages import print_message

NAME = "log.txt"


class LogFile:
    """Adds lines to a file, those of earlier attempts before them; a thread of its own writes.

    What cannot be written is told, once, and tried again with the next lines.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder, self._earlier = folder, b""
        self._lines: list[str] = []
        self._is_due, self._told = False, False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="log-file")
        self._thread.submit(self._read)

    def add(self, line: str) -> None:
        """Add a line, with the time in UTC."""
        self._lines.append(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}\n")
        if not self._is_due:  # else the writing that is to come takes it along
            self._is_due = True
            self._thread.submit(self._write)

    def close(self) -> None:
        """Wait until all is written."""
        self._thread.shutdown()

    def _read(self) -> None:
        try:
            self._earlier = self._folder.read(NAME)
        except FileNotFoundError:
            return
        except (OSError, UserError, Failure) as error:
            self._tell(error)

    def _write(self) -> None:
        self._is_due = False
        try:
            self._folder.write(NAME, self._earlier + "".join(self._lines).encode())
        except (OSError, UserError, Failure) as error:
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        if not self._told:
            print_message(f"{self._folder.uri}/{NAME} is not kept: {error}")
            self._told = True
