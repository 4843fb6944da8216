"""Draws pictures in a process of its own: matplotlib holds the interpreter that it runs in for seconds.

It takes a function and its arguments, and answers with a PNG file's bytes or with what went wrong. It ends when
the other end of its pipe is closed, also because the process that asked was killed.
"""

import os
import pickle
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any

from matplotlib.figure import Figure

from vgg.pictures.png import as_png

NICENESS = 5
"""What is trained meanwhile goes first where cores are few."""


class NotDrawn(Exception):
    """A picture that could not be drawn, and why."""


@dataclass(frozen=True)
class _Process:
    process: Any
    """Of multiprocessing's context."""
    pipe: Connection
    joining: Lock = field(default_factory=Lock)

    def join(self) -> int | None:
        """Its exit code, once it has ended: of two threads that wait for it at once, one would get none."""
        with self.joining:
            self.process.join()
            return self.process.exitcode


class DrawingProcess:
    """One process, started for the first picture and again for the next one after it was killed."""

    def __init__(self) -> None:
        self._running: _Process | None = None

    def png(self, make: Callable[..., Figure], *arguments: Any) -> bytes:
        """The figure that `make` draws of these arguments, all of which are pickled. NotDrawn if it does not.

        To be called by one thread at a time.
        """
        running = self._running = self._running or _start()
        try:
            running.pipe.send((make, arguments))
            drawn, problem = running.pipe.recv()
        except (EOFError, OSError) as error:
            self._running = None
            running.pipe.close()
            raise NotDrawn(f"the process that drew it has ended ({running.join()})") from error
        if drawn is None:
            raise NotDrawn(problem)
        return drawn

    def close(self) -> None:
        """End the process at once, whatever it draws, on any thread; its caller then gets NotDrawn."""
        if (running := self._running) is not None:
            running.process.kill()
            running.join()


def _start() -> _Process:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), name="pictures", daemon=True)
    process.start()
    theirs.close()  # so that its end is noticed
    return _Process(process, ours)


def _serve(pipe: Connection) -> None:
    """Draw until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal
    os.nice(NICENESS)
    with suppress(EOFError, OSError):  # the training has ended
        while True:
            pipe.send(_drawn(pipe.recv_bytes()))


def _drawn(asked: bytes) -> tuple[bytes | None, str]:
    """A picture, or None and what went wrong."""
    try:
        make, arguments = pickle.loads(asked)
        return as_png(make(*arguments)), ""
    except Exception as error:  # noqa: BLE001  # told by the process that asked
        return None, repr(error)
