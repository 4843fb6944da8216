"""The files of an archive, each with the place where its bytes lie; nothing is unpacked under its name."""

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

from pipelines.shards.manifest import SetAside
from pipelines.sources.entries import Range

CORRUPT = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    OSError,
    RuntimeError,  # a zip that is encrypted or of an unknown method
    lzma.LZMAError,
    zlib.error,
)


BLOCK = 2**20  # bytes that are copied at once


@dataclass
class Listing:
    """What an archive holds."""

    files: dict[str, Range] = field(default_factory=dict)
    """In the archive's order; of several of one name the last."""
    set_aside: list[SetAside] = field(default_factory=list)

    def refuse(self, name: str, reason: str) -> None:
        """Note a file that is not taken."""
        self.set_aside.append(SetAside("archive", name, reason))

    def add(self, name: str, place: Range) -> None:
        """Take a file, unless its name leads out of the archive."""
        if leads_out(name):
            self.refuse(name, "its name leads out of the archive")
            return
        if name in self.files:
            self.refuse(name, "another file of the same name comes later")
        self.files[name] = place


def leads_out(name: str) -> bool:
    """Whether unpacking a file of this name would write outside the folder it is unpacked in."""
    return name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts


def corrupt(archive: object, error: Exception) -> ValueError:
    """The error for an archive that cannot be read."""
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")  # tarfile's go on for lines
    return ValueError(f"archive {archive} is corrupt or cut off ({reason}): fetch it again")


def open_archive(path: Path, spool: Path) -> Listing:
    """List a .tar, compressed or not, or a .zip. The bytes of a compressed one are written to `spool`, one
    after the other, so that any of them can be read later and none is held in memory.

    ValueError where the archive is corrupt.
    """
    listing = Listing()
    try:
        if zipfile.is_zipfile(path):
            _spool_zip(path, spool, listing)
        elif _is_plain_tar(path):
            with tarfile.open(path, "r:") as archive:
                list_tar(archive, path, listing)
        else:
            _spool_tar(path, spool, listing)
    except CORRUPT as error:
        raise corrupt(path, error) from error
    return listing


def list_tar(archive: tarfile.TarFile, path: Path, listing: Listing, base: int = 0) -> None:
    """Add the files of an open tar whose first byte is byte `base` of the file at `path`."""
    stamp = path.stat().st_mtime_ns
    for member in _files(archive, listing):
        listing.add(member.name, Range(str(path), base + member.offset_data, member.size, stamp))


def _files(archive: tarfile.TarFile, listing: Listing) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        if member.isfile() and not member.issparse():
            yield member
        elif not member.isdir():
            listing.refuse(member.name, "a link or a special file, not an image")


def _is_plain_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:"):
            return True
    except tarfile.ReadError:
        return False


def _spool_tar(path: Path, spool: Path, listing: Listing) -> None:
    stamp = path.stat().st_mtime_ns
    with _decompressed(path) as file, tarfile.open(fileobj=file, mode="r|") as archive, spool.open("wb") as out:
        for member in _files(archive, listing):
            stream = archive.extractfile(member)
            assert stream is not None
            listing.add(member.name, Range(str(spool), out.tell(), member.size, stamp))
            _copy(stream, out)
        while file.read(BLOCK):  # to the very end, where the checksum is
            pass


def _decompressed(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        magic = file.read(6)
    for start, opener in ((b"\xfd7zXZ\0", lzma.open), (b"\x1f\x8b", gzip.open), (b"BZh", bz2.open)):
        if magic.startswith(start):
            return opener(path, "rb")  # type: ignore[return-value]
    raise tarfile.ReadError("neither a zip nor a tar, plain or compressed by xz, gzip or bzip2")


def _spool_zip(path: Path, spool: Path, listing: Listing) -> None:
    stamp = path.stat().st_mtime_ns
    with zipfile.ZipFile(path) as archive, spool.open("wb") as out:
        for member in archive.infolist():
            if member.is_dir():
                continue
            start = out.tell()
            with archive.open(member) as stream:
                _copy(stream, out)
            listing.add(member.filename, Range(str(spool), start, out.tell() - start, stamp))


def _copy(stream: IO[bytes], out: IO[bytes]) -> None:
    while block := stream.read(BLOCK):
        out.write(block)
