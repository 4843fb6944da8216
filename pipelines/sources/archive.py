"""Lists the files of an archive with the location of their bytes; nothing is unpacked under its own name."""

import bz2
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from cli.errors import UserError
from pipelines.shards.manifest import SkippedFile
from pipelines.sources.source import FileSlice

CORRUPT = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    OSError,
    RuntimeError,  # an encrypted zip, or one of an unknown method
    lzma.LZMAError,
    zlib.error,
)
"""What the standard library raises for a corrupt archive."""

COPY_BYTES = 2**20


@dataclass
class FileListing:
    """The files of an archive or a folder by name."""

    files: dict[str, FileSlice] = field(default_factory=dict)
    """In the archive's order; of several files of one name the last."""
    skipped: list[SkippedFile] = field(default_factory=list)

    def skip(self, name: str, reason: str) -> None:
        """Record a file that is not packed."""
        self.skipped.append(SkippedFile("archive", name, reason))

    def add(self, name: str, content: FileSlice) -> None:
        """List a file, unless its name leads out of the archive."""
        if is_outside_archive(name):
            self.skip(name, "its name leads out of the archive")
            return
        if name in self.files:
            self.skip(name, "another file of the same name comes later")
        self.files[name] = content


def is_outside_archive(name: str) -> bool:
    """Whether unpacking a member of this name would write outside the target folder."""
    return name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts


def corrupt_archive(archive: object, error: Exception) -> UserError:
    """The error for an archive that cannot be read."""
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")  # tarfile's span several lines
    return UserError(f"archive {archive} is corrupt or cut off ({reason}): fetch it again")


def list_archive(path: Path, spool: Path) -> FileListing:
    """List a .tar, compressed or not, or a .zip. UserError if it is corrupt.

    The members of a compressed archive are written to the file `spool` one after the other, so that each can be
    read later and none is held in memory.
    """
    listing = FileListing()
    try:
        if zipfile.is_zipfile(path):
            _spool_zip(path, spool, listing)
        elif _is_plain_tar(path):
            with tarfile.open(path, "r:") as archive:
                list_tar(archive, path, listing)
        else:
            _spool_tar(path, spool, listing)
    except CORRUPT as error:
        raise corrupt_archive(path, error) from error
    return listing


def list_tar(archive: tarfile.TarFile, path: Path, listing: FileListing, base: int = 0) -> None:
    """Add the files of an open tar that starts at byte `base` of the file at `path`."""
    stamp = path.stat().st_mtime_ns
    for member in _regular_files(archive, listing):
        listing.add(member.name, FileSlice(str(path), base + member.offset_data, member.size, stamp))


def _regular_files(archive: tarfile.TarFile, listing: FileListing) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        if member.isfile() and not member.issparse():
            yield member
        elif not member.isdir():
            listing.skip(member.name, "a link or a special file, not an image")


def _is_plain_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:"):
            return True
    except tarfile.ReadError:
        return False


def _spool_tar(path: Path, spool: Path, listing: FileListing) -> None:
    stamp = path.stat().st_mtime_ns
    with _decompressed(path) as file, tarfile.open(fileobj=file, mode="r|") as archive, spool.open("wb") as out:
        for member in _regular_files(archive, listing):
            stream = archive.extractfile(member)
            assert stream is not None
            listing.add(member.name, FileSlice(str(spool), out.tell(), member.size, stamp))
            _copy(stream, out)
        while file.read(COPY_BYTES):  # to the end, where the checksum is
            pass


def _decompressed(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        magic = file.read(6)
    for start, opener in ((b"\xfd7zXZ\0", lzma.open), (b"\x1f\x8b", gzip.open), (b"BZh", bz2.open)):
        if magic.startswith(start):
            return opener(path, "rb")  # type: ignore[return-value]
    raise tarfile.ReadError("neither a zip nor a tar, plain or compressed by xz, gzip or bzip2")


def _spool_zip(path: Path, spool: Path, listing: FileListing) -> None:
    stamp = path.stat().st_mtime_ns
    with zipfile.ZipFile(path) as archive, spool.open("wb") as out:
        for member in archive.infolist():
            if member.is_dir():
                continue
            start = out.tell()
            with archive.open(member) as stream:
                _copy(stream, out)
            listing.add(member.filename, FileSlice(str(spool), start, out.tell() - start, stamp))


def _copy(stream: IO[bytes], out: IO[bytes]) -> None:
    while block := stream.read(COPY_BYTES):
        out.write(block)
