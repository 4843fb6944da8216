"""Runs a function on many arguments in processes of this machine."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for_futures
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import TypeVar

from cli.errors import Failure
from cluster.hand_out import hand_out

Argument = TypeVar("Argument")

Result = TypeVar("Result")

QUEUED_PER_PROCESS = 2  # submitted ahead: no process waits for its next task, and few arguments are in memory


def run_in_processes(
    function: Callable[[Argument], Result], arguments: Sequence[Argument], workers: int | None = None
) -> Iterator[tuple[Argument, Result]]:
    """Each argument with the function's result, in the order in which they finish.

    `workers`: number of processes, by default as many as there are cores; one worker is this process itself.
    What the function raises is raised here; Failure if a process was killed. The processes end with this one,
    also when it is killed.
    """
    workers = min(workers or os.cpu_count() or 1, max(len(arguments), 1))
    if workers == 1:
        for argument in arguments:
            yield argument, function(argument)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_process)

    def submit(argument: Argument) -> Future[Result]:
        return pool.submit(function, argument)

    try:
        yield from hand_out(
            arguments,
            [submit] * workers * QUEUED_PER_PROCESS,
            wait=lambda futures: wait_for_futures(futures, return_when=FIRST_COMPLETED).done,
            result=Future.result,
            cancel=Future.cancel,
        )
    except BrokenProcessPool as error:
        raise Failure("a process was killed (out of memory?)") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process() -> None:
    # Ctrl-C reaches every process of the terminal; only the main one reacts to it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
