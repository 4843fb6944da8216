"""What Ctrl-C ends with where no command is there yet to say it: during the imports, which take seconds."""

import sys
from types import TracebackType


def runs_as_command() -> bool:
    """Whether Python imports a package to run a module of it: `python -m package.module`."""
    return sys.argv[:1] == ["-m"]


def one_line_instead_of_a_traceback() -> None:
    """From now on an interruption that nobody handles is told in a line; all else keeps its traceback."""
    sys.excepthook = _told


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if _interrupted(error):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _interrupted(error: BaseException | None) -> bool:
    """Whether it is an interruption, or the error of a library whose import one cut off."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False
