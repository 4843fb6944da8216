"""How every command ends: its exit code, and what it says on standard error."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cli.addresses import refuse_secret
from cli.console import console
from cli.errors import Failure, UserError


@contextmanager
def exit_codes(*, interrupted: str | None = None) -> Iterator[None]:
    """End the process with 2 for the user's mistake, 1 for a failed job, 130 for Ctrl-C, each in one line.

    `interrupted`: what to say at Ctrl-C; None leaves it to Python. Bugs keep their traceback.
    """
    try:
        yield
    except UserError as error:
        sys.exit(print_error(error, 2))
    except Failure as error:
        sys.exit(print_error(error, 1))
    except KeyboardInterrupt:
        if interrupted is None:
            raise
        print(interrupted, file=sys.stderr)
        sys.exit(130)


def arguments() -> list[str]:
    """This command's arguments. Ends the process with 2 if one holds a secret, before anything repeats it.

    From now on what standard output cannot encode, of a file's name say, is written as \\xNN, as on stderr.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    name = "an argument"
    with exit_codes():
        for argument in sys.argv[1:]:
            flag, mark, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
            refuse_secret(value, flag if mark else name)
            name = argument if argument.startswith("--") and not mark else "an argument"
    return sys.argv[1:]


def print_error(problem: object, code: int) -> int:
    """Say on standard error, in one line, what went wrong; the exit code, for `sys.exit`."""
    console(stderr=True).print(f"error: {' '.join(str(problem).splitlines())}", style="red")
    return code
