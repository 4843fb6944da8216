"""A data set before it is packed: its classes, and its files with labels and the location of their bytes."""

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from pipelines.shards.boxes import Box
from pipelines.shards.manifest import SkippedFile

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
"""Of files that are taken for images before they are decoded, in lower case."""


@dataclass(frozen=True, slots=True)
class FileSlice:
    """A range of bytes of a file on disk: a whole file, or a member of an uncompressed archive."""

    file: str
    offset: int
    size: int
    stamp: int
    """Modification time of the source in ns, by which an interrupted packing notices that it has changed."""

    @classmethod
    def whole(cls, file: Path) -> "FileSlice":
        """All bytes of a file."""
        status = file.stat()
        return cls(str(file), 0, status.st_size, status.st_mtime_ns)

    def read(self) -> bytes:
        """The bytes. OSError if the file cannot be read or has become shorter."""
        with Path(self.file).open("rb") as stream:
            stream.seek(self.offset)
            data = stream.read(self.size)
        if len(data) != self.size:
            raise OSError(f"only {len(data)} of {self.size} bytes are there")
        return data


@dataclass(frozen=True, slots=True)
class InlineData:
    """Bytes held in memory."""

    data: bytes
    stamp = 0

    @property
    def size(self) -> int:
        """Size in bytes."""
        return len(self.data)

    def read(self) -> bytes:
        """The bytes."""
        return self.data


NO_CLASS = ""
"""Of a file whose class is not known."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source, not read yet."""

    split: str
    key: str
    """Its name in the source."""
    label: str
    """Identifier of its class, or `NO_CLASS`."""
    content: FileSlice | InlineData
    boxes: tuple[Box, ...] = ()
    """In pixels of the file, before any EXIF rotation."""
    labels: tuple[str, ...] = ()
    """Of a source with several labels an image: identifiers of its classes; `label` is `NO_CLASS` then."""
    difficult: tuple[str, ...] = ()
    """Of such a source: the classes of which it has hard objects alone, which count neither way."""


@dataclass(frozen=True)
class Source:
    """A data set before it is packed."""

    name: str
    classes: list[str]
    """Identifiers, sorted."""
    class_names: dict[str, str]
    """Human-readable names; a class without one is called by its identifier."""
    files: list[SourceFile]
    """In an order that depends on the source alone."""
    skipped: list[SkippedFile] = field(default_factory=list)
    """Files of the source that are not packed."""
    split_note: str = ""
    """How the files were divided into splits, where the source does not say it itself."""
    several_labels: bool = False
    """Whether an image may be of several classes, or of none."""

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of files in each split."""
        return dict(Counter(file.split for file in self.files))

    def with_unique_names(self) -> "Source":
        """The same source with names that are valid UTF-8 and unique within a split.

        Of several files of one name the last is kept, as unpacking an archive would; a name that occurs with
        two labels is skipped altogether.
        """
        last: dict[str, dict[str, int]] = {split: {} for split in self.counts}
        ambiguous: set[tuple[str, str]] = set()
        for position, file in enumerate(self.files):
            key = utf8_name(file.key)
            before = last[file.split].get(key)
            if before is not None and self.files[before].label != file.label:
                ambiguous.add((file.split, key))
            last[file.split][key] = position
        files, skipped = [], list(self.skipped)
        for position, file in enumerate(self.files):
            key, label = utf8_name(file.key), utf8_name(file.label)
            if (file.split, key) in ambiguous:
                skipped.append(SkippedFile(file.split, key, f"it is there under several classes, here {label}"))
            elif last[file.split][key] != position:
                skipped.append(SkippedFile(file.split, key, "another file of the same name comes later"))
            elif (key, label) == (file.key, file.label):
                files.append(file)
            else:
                files.append(replace(file, key=key, label=label))
        return replace(
            self,
            name=utf8_name(self.name),
            classes=[utf8_name(name) for name in self.classes],
            class_names={utf8_name(key): utf8_name(name) for key, name in self.class_names.items()},
            files=files,
            skipped=[replace(file, key=utf8_name(file.key)) for file in skipped],
        )


def utf8_name(name: str) -> str:
    """A file name as valid text: bytes that are not UTF-8 are written as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
