"""What every source yields."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Item:
    """A file of a source, as it lies there."""

    split: str
    key: str
    """Its name in the source."""
    label: str
    data: bytes
    boxes: list[list[float]] = field(default_factory=list)
    """xmin, ymin, xmax, ymax in pixels."""


@dataclass(frozen=True)
class Source:
    """A data set before it is packed."""

    name: str
    classes: list[str]
    class_names: dict[str, str]
    """Readable names; a class without one is called by its identifier."""
    counts: dict[str, int]
    """Files of each split."""
    items: Callable[[], Iterator[Item]]


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
