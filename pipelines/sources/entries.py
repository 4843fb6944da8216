"""What every source yields: entries, each a file with its label and the place where its bytes lie."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from pipelines.shards.manifest import SetAside

TOLERATED = 0.01
"""Share of a label file's lines that may disagree with the files: those are set aside, more are refused."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes of a file on disk, or of an archive that is not compressed."""

    file: str
    offset: int
    size: int
    stamp: int
    """When the file was changed, in nanoseconds: an interrupted packing sees that its source is another."""

    @classmethod
    def whole(cls, file: Path) -> "Range":
        """All of a file."""
        status = file.stat()
        return cls(str(file), 0, status.st_size, status.st_mtime_ns)

    def read(self) -> bytes:
        """OSError where the file cannot be read or has become shorter."""
        with Path(self.file).open("rb") as stream:
            stream.seek(self.offset)
            data = stream.read(self.size)
        if len(data) != self.size:
            raise OSError(f"only {len(data)} of {self.size} bytes are there")
        return data


@dataclass(frozen=True, slots=True)
class Embedded:
    """Bytes that lie in no file."""

    data: bytes
    stamp = 0

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.data)

    def read(self) -> bytes:
        """The bytes."""
        return self.data


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a source, not read yet."""

    split: str
    key: str
    """Its name in the source."""
    label: str
    place: Range | Embedded
    boxes: tuple[tuple[float, ...], ...] = ()
    """xmin, ymin, xmax, ymax in pixels."""


@dataclass(frozen=True)
class Item:
    """A file of a source, as it lies there."""

    split: str
    key: str
    label: str
    data: bytes
    boxes: list[list[float]]


@dataclass(frozen=True)
class Source:
    """A data set before it is packed."""

    name: str
    classes: list[str]
    class_names: dict[str, str]
    """Readable names; a class without one is called by its identifier."""
    entries: list[Entry]
    """In an order that depends on the source alone; names are text that UTF-8 can hold, and unlike."""
    set_aside: list[SetAside] = field(default_factory=list)
    """Files of the source that cannot be entries."""

    @cached_property
    def counts(self) -> dict[str, int]:
        """Files of each split."""
        return dict(Counter(entry.split for entry in self.entries))

    def items(self) -> Iterator[Item]:
        """Every entry with its bytes."""
        for entry in self.entries:
            boxes = [list(box) for box in entry.boxes]
            yield Item(entry.split, entry.key, entry.label, entry.place.read(), boxes)

    def tidied(self) -> "Source":
        """The same with readable names, and of entries of one name the last, as unpacking would leave it.

        A name under two labels is set aside altogether.
        """
        last: dict[str, dict[str, int]] = {split: {} for split in self.counts}
        clashing: set[tuple[str, str]] = set()
        for place, entry in enumerate(self.entries):
            key = readable(entry.key)
            before = last[entry.split].get(key)
            if before is not None and self.entries[before].label != entry.label:
                clashing.add((entry.split, key))
            last[entry.split][key] = place
        entries, set_aside = [], list(self.set_aside)
        for place, entry in enumerate(self.entries):
            key, label = readable(entry.key), readable(entry.label)
            if (entry.split, key) in clashing:
                set_aside.append(SetAside(entry.split, key, f"it is there under several classes, here {label}"))
            elif last[entry.split][key] != place:
                set_aside.append(SetAside(entry.split, key, "another file of the same name comes later"))
            elif (key, label) == (entry.key, entry.label):
                entries.append(entry)
            else:
                entries.append(replace(entry, key=key, label=label))
        return replace(
            self,
            classes=[readable(name) for name in self.classes],
            class_names={readable(key): readable(name) for key, name in self.class_names.items()},
            entries=entries,
            set_aside=[replace(entry, key=readable(entry.key)) for entry in set_aside],
        )


def readable(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8 are written as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def tolerate(disagreeing: Sequence[SetAside], of: int, message: str) -> list[SetAside]:
    """Those lines of a label file, if they are few. ValueError with the message where they are not."""
    if len(disagreeing) > TOLERATED * of:
        raise ValueError(message)
    return list(disagreeing)


def choose(there: list[str], wanted: Sequence[str]) -> list[str]:
    """The classes to take, sorted. `wanted` is empty for all, one number for the first so many, else names."""
    if not there:
        raise ValueError("the source has no classes")
    if not wanted:
        return there
    if len(wanted) == 1 and wanted[0].isdigit() and wanted[0] not in there:
        number = int(wanted[0])
        if not 1 <= number <= len(there):
            raise ValueError(f"--classes {number}: the source has {len(there)} classes")
        return there[:number]
    if unknown := sorted(set(wanted) - set(there)):
        raise ValueError(f"--classes {unknown[0]}: the source has no such class")
    return sorted(set(wanted))
