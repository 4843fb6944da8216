"""A folder on any file system that pyarrow.fs knows: local disk, NFS, an object store."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

from pyarrow import fs, memory_map

from cli.addresses import refuse_secret
from cli.errors import UserError
from pipelines.storage.atomic import atomic_file


class Folder:
    """Reads and writes files by name below one path. A file is complete or absent, never half-written."""

    def __init__(self, uri: str) -> None:
        """`uri`: a local path or a URI such as s3://bucket/runs/d. UserError if it is neither."""
        refuse_secret(uri, "a folder's URI")
        self.uri = uri.rstrip("/")
        try:
            if "://" in uri:
                self.fs, self.path = fs.FileSystem.from_uri(uri)
            else:
                self.fs, self.path = fs.LocalFileSystem(), str(Path(uri).absolute())
        except (OSError, ValueError) as error:  # pyarrow's errors derive from these
            raise UserError(f"{uri}: not a path or a URI of a known file system: {error}") from error

    @property
    def local(self) -> Path | None:
        """The folder as a local path; None if it is remote."""
        return Path(self.path) if isinstance(self.fs, fs.LocalFileSystem) else None

    def child(self, name: str) -> "Folder":
        """The subfolder of this name."""
        base, mark, query = self.uri.partition("?")  # an object store's options follow the path
        child = copy(self)
        child.uri, child.path = f"{base}/{name}{mark}{query}", f"{self.path}/{name}"
        return child

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return self.fs.get_file_info(f"{self.path}/{name}").type == fs.FileType.File

    def names(self, below: str = "") -> list[str]:
        """Sorted names of the files and folders directly in this folder, or in its subfolder `below`."""
        base = f"{self.path}/{below}".rstrip("/")
        found = self.fs.get_file_info(fs.FileSelector(base, allow_not_found=True))
        return sorted(info.base_name for info in found)

    def read(self, name: str) -> bytes:
        """The bytes of a file. FileNotFoundError if there is none."""
        with self.fs.open_input_stream(f"{self.path}/{name}") as stream:
            return stream.read()

    def size(self, name: str) -> int | None:
        """Size of a file in bytes; None if there is none."""
        info = self.fs.get_file_info(f"{self.path}/{name}")
        return info.size if info.type == fs.FileType.File else None

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically: a rename on a disk, a single upload to an object store."""
        with self.writing(name) as stream:
            stream.write(data)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A stream that becomes the file when the block ends; if the block raises, nothing is kept.

        A store's file is written to a temporary one first: closing a store's stream publishes what it has got.
        """
        target = f"{self.path}/{name}"
        if self.local is None:
            with NamedTemporaryFile() as file:
                yield file
                file.flush()
                self._upload(Path(file.name), target)
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(Path(target)) as file:
            yield file

    def _upload(self, file: Path, target: str) -> None:
        with self.fs.open_output_stream(target) as stream:
            if file.stat().st_size:
                with memory_map(str(file)) as data:
                    stream.write(data.read_buffer())  # in one call, which no exception of Python interrupts

    def read_json(self, name: str) -> Any:
        """The value of a JSON file. UserError naming the file if it is not JSON."""
        try:
            return json.loads(self.read(name))
        except json.JSONDecodeError as error:
            raise UserError(f"{self.uri}/{name} is not JSON ({error}): the file is damaged") from error

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as indented JSON. ValueError for NaN and infinity, which are not JSON."""
        self.write(name, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())

    def delete_file(self, name: str) -> None:
        """Delete a file."""
        self.fs.delete_file(f"{self.path}/{name}")

    def delete(self, name: str) -> None:
        """Delete a subfolder with everything in it."""
        self.fs.delete_dir(f"{self.path}/{name}")
