"""Atomic replacement of a local file: readers see the old file or the complete new one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4


@contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` for writing, and rename it to `path` when the block ends.

    `mode`: "wb", or "w" for UTF-8 text. The bytes are on the disk before the rename. If the block raises, the
    temporary file is removed and `path` stays as it was. OSError if the file cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{uuid4().hex[:8]}.partial")
    try:
        with temporary.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
