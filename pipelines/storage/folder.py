"""A folder on any path that pyarrow.fs knows: local disk, NFS, an object store."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import IO, Any

from pyarrow import fs


class Folder:
    """Files by name below one path. A file is there whole or not at all."""

    def __init__(self, uri: str) -> None:
        """`uri` is a local path or a URI such as s3://bucket/runs/d. ValueError where it is neither."""
        self.uri = uri.rstrip("/")
        try:
            if "://" in uri:
                self.fs, self.path = fs.FileSystem.from_uri(uri)
            else:
                self.fs, self.path = fs.LocalFileSystem(), str(Path(uri).absolute())
        except (OSError, ValueError) as error:  # pyarrow's errors derive from these
            raise ValueError(f"{uri}: not a path or a URI of a known file system: {error}") from error

    @property
    def local(self) -> Path | None:
        """The folder as a local path, or None where it is remote."""
        return Path(self.path) if isinstance(self.fs, fs.LocalFileSystem) else None

    def child(self, name: str) -> "Folder":
        """The folder of this name below this one."""
        base, mark, query = self.uri.partition("?")  # an object store's options follow the path
        child = copy(self)
        child.uri, child.path = f"{base}/{name}{mark}{query}", f"{self.path}/{name}"
        return child

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return self.fs.get_file_info(f"{self.path}/{name}").type == fs.FileType.File

    def names(self, below: str = "") -> list[str]:
        """Names of the files and folders directly in this folder, or in the one named `below`."""
        base = f"{self.path}/{below}".rstrip("/")
        found = self.fs.get_file_info(fs.FileSelector(base, allow_not_found=True))
        return sorted(info.base_name for info in found)

    def read(self, name: str) -> bytes:
        """The bytes of a file; FileNotFoundError where there is none."""
        with self.fs.open_input_stream(f"{self.path}/{name}") as stream:
            return stream.read()

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None where there is none."""
        info = self.fs.get_file_info(f"{self.path}/{name}")
        return info.size if info.type == fs.FileType.File else None

    def write(self, name: str, data: bytes) -> None:
        """Put a file there at once: renamed into place on a disk, a single upload on an object store."""
        with self.writing(name) as stream:
            stream.write(data)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A stream whose bytes are the file when the block ends; on a disk nothing is left where it fails."""
        target = f"{self.path}/{name}"
        if self.local is None:
            with self.fs.open_output_stream(target) as stream:
                yield stream
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        partial = Path(f"{target}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def read_json(self, name: str) -> Any:
        """A JSON file's value; ValueError naming the file where it is not JSON."""
        try:
            return json.loads(self.read(name))
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.uri}/{name} is not JSON ({error}): the file is damaged") from error

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as indented JSON. NaN is refused: no other program could read it."""
        self.write(name, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())

    def delete_file(self, name: str) -> None:
        """Remove a file."""
        self.fs.delete_file(f"{self.path}/{name}")

    def delete(self, name: str) -> None:
        """Remove a folder with all that is in it."""
        self.fs.delete_dir(f"{self.path}/{name}")
