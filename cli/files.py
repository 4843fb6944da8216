"""Local files and folders as a user names them."""

from pathlib import Path
from tempfile import NamedTemporaryFile

from cli.errors import UserError


def require_writable(file: Path, flag: str) -> None:
    """Make the file's folder. UserError naming the flag if the file could not be written there."""
    if file.exists() and not file.is_file():  # a device would be replaced by the file
        what = "a folder" if file.is_dir() else "no plain file"
        raise UserError(f"{flag} {file} is {what}: name a file")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise UserError(f"{flag} {file} cannot be written: {error.strerror or error}") from error


def absolute_path(path: str, flag: str) -> str:
    """The absolute path; a URI as it is.

    UserError where it would lie in the temporary copy that a submitted job runs in.
    """
    if "://" in path or Path(path).is_absolute():
        return path
    if "working_dir_files" in Path.cwd().parts:
        raise UserError(
            f"{flag} {path} must be absolute: a submitted job runs in a temporary copy of the folder"
        )
    return str(Path(path).absolute())
