"""What part of a source is packed: the classes asked for, and files whose label is known."""

from collections.abc import Sequence

from cli.errors import UserError
from pipelines.shards.manifest import SkippedFile

MAX_MISMATCH_SHARE = 0.01
"""Share of a label file's lines that may disagree with the files; those are skipped."""


def select_classes(available: list[str], wanted: Sequence[str]) -> list[str]:
    """The classes to pack, sorted: all if `wanted` is empty, the first N if it is a number N, else those named.

    UserError if the source does not have them.
    """
    if not available:
        raise UserError("the source has no classes")
    if not wanted:
        return available
    if len(wanted) == 1 and wanted[0].isdigit() and wanted[0] not in available:
        number = int(wanted[0])
        if not 1 <= number <= len(available):
            raise UserError(f"--classes {number}: the source has {len(available)} classes")
        return available[:number]
    if unknown := sorted(set(wanted) - set(available)):
        raise UserError(f"--classes {unknown[0]}: the source has no such class")
    return sorted(set(wanted))


def skip_mismatches(mismatches: Sequence[SkippedFile], lines: int, message: str) -> list[SkippedFile]:
    """Skip the lines of a label file that disagree with the files, if they are few among its `lines`.

    UserError with the message if they exceed `MAX_MISMATCH_SHARE`.
    """
    if len(mismatches) > MAX_MISMATCH_SHARE * lines:
        raise UserError(message)
    return list(mismatches)
