"""Which errors a command expects. Anything else is a bug: it keeps its traceback, and the exit code is 1."""

from collections.abc import Collection, Iterable


class UserError(ValueError):
    """Something that the user can correct: a flag, a file, an address. One line, exit code 2.

    The message names the flag, file or field and says what to do. It is a ValueError, which is what a program
    that calls the functions itself expects; the commands catch no other ValueError.
    """


class Failure(RuntimeError):
    """A job that was started and could not be finished, with the reason. One line, exit code 1."""


def require_known(given: Iterable[str], known: Collection[str], flag: str) -> None:
    """UserError that names one of the given values that is not known, and those that are."""
    if unknown := set(given) - set(known):
        raise UserError(f"{flag} {unknown.pop()}: choose from {', '.join(known)}")


def require(valid: bool, flag: str, wanted: str) -> None:
    """UserError that a flag must be what is wanted, unless it is valid."""
    if not valid:
        raise UserError(f"{flag} must be {wanted}")
