"""A folder on any file system that pyarrow.fs knows: local disk, NFS, an object store."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, TypeVar
from uuid import uuid4

from pyarrow import fs, memory_map

from cli.addresses import refuse_secret
from cli.errors import UserError
from pipelines.storage.atomic import atomic_file
from pipelines.storage.patience import FIRST_CONTACT, UNDERWAY, Patience, may_pass, patiently, reason

Value = TypeVar("Value")
PIECE_BYTES = 2**22


class Folder:
    """Reads and writes files by name below one path. A file is complete or absent, never half-written.

    A store that is away is waited for (`pipelines.storage.patience`). One that stays away, refuses the key or
    cannot be written is a UserError that names flag and address; in a folder that is `underway`, a Failure.
    """

    def __init__(self, uri: str, flag: str = "") -> None:
        """`uri`: a local path or a URI such as s3://bucket/runs/d. `flag`: by which the user named it.

        UserError if it is neither.
        """
        refuse_secret(uri, flag or "a folder's URI")
        _require_path(uri, flag)
        self.uri = uri.rstrip("/")
        self.flag, self._patience = flag, FIRST_CONTACT
        self._store = f"{flag} {uri}".strip()
        try:
            self.fs, self.path = self._patiently(lambda: _file_system(uri), "cannot be opened", asks=False)
        except ValueError as error:  # pyarrow's own derive from it
            if isinstance(error, UserError):
                raise
            raise UserError(f"{self._store} is not a path or a URI of a known file system: {error}") from error
        if not self.path:
            raise UserError(f"{self._store} names no bucket: write it as s3://bucket/folder")

    @property
    def local(self) -> Path | None:
        """The folder as a local path; None if it is remote."""
        return Path(self.path) if isinstance(self.fs, fs.LocalFileSystem) else None

    @property
    def described(self) -> str:
        """Flag and address, for messages."""
        return f"{self.flag} {self.uri}".strip()

    def child(self, name: str) -> "Folder":
        """The subfolder of this name."""
        base, mark, query = self.uri.partition("?")  # an object store's options follow the path
        child = copy(self)
        child.uri, child.path = f"{base.rstrip('/')}/{name}{mark}{query}", f"{self.path}/{name}"
        return child

    def underway(self, patience: Patience = UNDERWAY) -> "Folder":
        """The same folder for a job that runs: its store is waited for longer, and is never a mistake."""
        other = copy(self)
        other._patience = patience
        return other

    def require_writable(self) -> None:
        """UserError or Failure unless a file can be written here. Nothing is left, no empty folder either."""
        missing, probe = self.missing_folders(), f".writable-{uuid4().hex[:8]}"
        self.write(probe, b"")
        self.delete_file(probe)
        self.remove_empty(missing)

    def missing_folders(self) -> list[Path]:
        """The folders of the local path that do not exist, this one first; none of a store."""
        if self.local is None:
            return []
        return [folder for folder in (self.local, *self.local.parents) if not os.path.lexists(folder)]

    def remove_empty(self, folders: list[Path]) -> None:
        """Remove those that were missing before, as far as they are empty now."""
        with suppress(OSError):  # not there, or not empty: another process has begun to use it
            for folder in folders:
                folder.rmdir()

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return self.size(name) is not None

    def names(self, below: str = "") -> list[str]:
        """Sorted names of the files and folders directly in this folder, or in its subfolder `below`."""
        selector = fs.FileSelector(f"{self.path}/{below}".rstrip("/"), allow_not_found=True)
        found = self._patiently(lambda: self.fs.get_file_info(selector), "cannot be listed")
        return sorted(info.base_name for info in found)

    def read(self, name: str) -> bytes:
        """The bytes of a file. FileNotFoundError if there is none."""

        def call() -> bytes:
            with self.fs.open_input_stream(f"{self.path}/{name}") as stream:
                return stream.read()

        return self._patiently(call, f"cannot be read ({name})", may_be_missing=True)

    def open_locally(self, name: str) -> IO[bytes]:
        """A file opened for reading; one on a store is copied to a temporary file first. FileNotFoundError if
        there is none."""
        if self.local is not None:
            return (self.local / name).open("rb")

        def call() -> IO[bytes]:
            file = NamedTemporaryFile()  # noqa: SIM115 - the caller closes it
            with self.fs.open_input_stream(f"{self.path}/{name}") as stream:
                shutil.copyfileobj(stream, file)
            file.flush()
            file.seek(0)
            return file

        return self._patiently(call, f"cannot be read ({name})", may_be_missing=True)

    def size(self, name: str) -> int | None:
        """Size of a file in bytes; None if there is none."""
        path = f"{self.path}/{name}"
        info = self._patiently(lambda: self.fs.get_file_info(path), f"cannot be read ({name})")
        return info.size if info.type == fs.FileType.File else None

    def sha256(self, name: str) -> str:
        """SHA-256 of a file's bytes, in pieces. FileNotFoundError if there is none."""

        def call() -> str:
            digest = hashlib.sha256()
            with self.fs.open_input_stream(f"{self.path}/{name}") as stream:
                while piece := stream.read(PIECE_BYTES):
                    digest.update(piece)
            return digest.hexdigest()

        return self._patiently(call, f"cannot be read ({name})", may_be_missing=True)

    def write(self, name: str, data: bytes | Sequence[memoryview]) -> None:
        """Write a file atomically, given whole or in pieces: a rename on a disk, a single upload to a store."""
        pieces = [data] if isinstance(data, bytes) else data
        if self.local is None:
            with self.writing(name) as stream:
                stream.writelines(pieces)
            return

        def call() -> None:
            with _local_file(f"{self.path}/{name}") as file:
                file.writelines(pieces)

        self._patiently(call, f"cannot be written ({name})")

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A stream that becomes the file when the block ends; if the block raises, nothing is kept.

        A store's file is written to a temporary one first: closing a store's stream publishes what it has got.
        """
        target = f"{self.path}/{name}"
        if self.local is not None:
            with _local_file(target) as file:
                yield file
            return
        with NamedTemporaryFile() as file:
            yield file
            file.flush()
            self._patiently(lambda: self._upload(Path(file.name), target), f"cannot be written ({name})")

    def _upload(self, file: Path, target: str) -> None:
        with self.fs.open_output_stream(target) as stream:
            if file.stat().st_size:
                with memory_map(str(file)) as data:
                    stream.write(data.read_buffer())  # in one call, which no exception of Python interrupts

    def read_json(self, name: str) -> Any:
        """The value of a JSON file. UserError naming the file if it is not JSON, FileNotFoundError if none."""
        try:
            return json.loads(self.read(name))
        except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested without end
            if isinstance(error, UserError):
                raise
            raise UserError(f"{self.uri}/{name} is not JSON ({error}): the file is damaged") from error

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as indented JSON. ValueError for NaN and infinity, which are not JSON."""
        self.write(name, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())

    def delete_file(self, name: str) -> None:
        """Delete a file, if it is there."""
        with suppress(FileNotFoundError):
            path = f"{self.path}/{name}"
            self._patiently(
                lambda: self.fs.delete_file(path), f"cannot be deleted ({name})", may_be_missing=True
            )

    def delete(self, name: str) -> None:
        """Delete a subfolder with everything in it, if it is there."""
        with suppress(FileNotFoundError):
            path = f"{self.path}/{name}"
            self._patiently(
                lambda: self.fs.delete_dir(path), f"cannot be deleted ({name})", may_be_missing=True
            )

    def _patiently(
        self, call: Callable[[], Value], what: str, *, may_be_missing: bool = False, asks: bool = True
    ) -> Value:
        try:
            return patiently(call, self._patience, self._store, asks=asks)
        except OSError as error:
            if may_be_missing and isinstance(error, FileNotFoundError):
                raise
            tried = f" for {self._patience.seconds:g} s" if may_pass(error) else ""
            raise self._patience.raises(f"{self.described} {what}{tried}: {reason(error)}") from error


def _require_path(uri: str, flag: str) -> None:
    """UserError where a local path is none that is meant, or that pyarrow takes."""
    if "://" not in uri and "~" in Path(uri).parts:
        raise UserError(f"{flag} {uri}: no shell has put your home folder in place of ~: write it out".strip())
    try:
        uri.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{flag} {uri} has a name that is no UTF-8: choose another folder".strip()) from error


def _file_system(uri: str) -> tuple[fs.FileSystem, str]:
    if "://" in uri:
        return fs.FileSystem.from_uri(uri)
    return fs.LocalFileSystem(), str(Path(uri).absolute())


@contextmanager
def _local_file(target: str) -> Iterator[IO[bytes]]:
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(Path(target)) as file:
        yield file
