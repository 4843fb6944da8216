"""Files of a spool, which somebody else may have written: no link leads out of its folder."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cli.errors import UserError

# A FIFO is not waited for.
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotPlain(UserError):
    """A name that is not one of a regular file in this very folder."""


def require_plain(folder: Path, files: tuple[str, ...], subfolder: str) -> None:
    """NotPlain if one of these is there and is a link, a device or the like."""
    for name in (*files, subfolder):
        path = folder / name
        if os.path.lexists(path):
            mode = path.lstat().st_mode
            if not (stat.S_ISDIR(mode) if name == subfolder else stat.S_ISREG(mode)):
                wanted = "folder" if name == subfolder else "file"
                raise NotPlain(f"{path} is not a {wanted} itself but a link or the like: this is no spool")


def open_plain(path: Path, mode: str) -> IO[Any]:
    """Open a regular file. NotPlain if it is anything else, OSError as `open` raises it."""
    file = open(path, mode, opener=lambda name, flags: os.open(name, flags | _FLAGS, 0o666))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotPlain(f"{path} is not a regular file")
    return file


@contextmanager
def opened_below(folder: Path, name: str) -> Iterator[Path]:
    """A path of this process to the regular file `name` of the folder, whatever its name stands for later.

    NotPlain if the name has a slash, or stands for a link, a device or a file that has other names as well;
    FileNotFoundError if it is missing.
    """
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise NotPlain(f"{name!r} is not the name of a file in {folder}")
    directory = _open(folder, os.O_DIRECTORY)
    try:
        descriptor = _open(Path(name), os.O_RDONLY, directory)
    finally:
        os.close(directory)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise NotPlain(f"{name} is not a regular file with this one name: copy it if it is yours")
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _open(path: Path, flags: int, directory: int | None = None) -> int:
    try:
        return os.open(path, flags | _FLAGS, dir_fd=directory)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise NotPlain(f"{path} cannot be opened as itself: {error.strerror}") from error
