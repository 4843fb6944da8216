"""Local files that a command is to write."""

from pathlib import Path
from tempfile import NamedTemporaryFile

from cli.errors import UserError


def require_writable(file: Path, flag: str) -> None:
    """Make the file's folder. UserError naming the flag if the file could not be written there."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise UserError(f"{flag} {file} cannot be written: {error.strerror or error}") from error
    if file.is_dir():
        raise UserError(f"{flag} {file} is a folder: name a file")
