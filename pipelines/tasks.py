"""Runs a function on many arguments: here, in processes of this machine, or as tasks of a Ray cluster."""

import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

Argument = TypeVar("Argument")


Result = TypeVar("Result")


CONNECT_SECONDS = 10.0


AHEAD = 2  # tasks a process that are handed over at once: bounds what is held in memory


def run_all(
    function: Callable[[Argument], Result],
    arguments: Sequence[Argument],
    *,
    workers: int | None,
    cluster: str | None,
) -> Iterator[tuple[int, Result]]:
    """Each result with its place among the arguments, as they come.

    `workers`: processes or, on a cluster, tasks at a time; None: as many as it has cores. `cluster`: address of
    a Ray cluster, whose nodes must reach what the function reads and writes. What the function raises is raised
    here; ValueError where a process or the cluster was lost.
    """
    if cluster is not None:
        yield from _on_ray(function, arguments, workers, cluster)
        return
    workers = min(workers or os.cpu_count() or 1, max(len(arguments), 1))
    if workers == 1:
        for place, argument in enumerate(arguments):
            yield place, function(argument)
        return
    left = iter(enumerate(arguments))
    waiting: dict[Future[Result], int] = {}
    # Ctrl-C reaches every process of the terminal; it is this one that answers it.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN))
    try:
        while True:
            while len(waiting) < AHEAD * workers and (following := next(left, None)) is not None:
                waiting[pool.submit(function, following[1])] = following[0]
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()
    except BrokenProcessPool as error:
        raise ValueError("a process was killed (out of memory?): try fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _on_ray(
    function: Callable[[Argument], Result], arguments: Sequence[Argument], workers: int | None, cluster: str
) -> Iterator[tuple[int, Result]]:
    import ray  # a second, which only those wait for who use it

    waiting: dict[Any, int] = {}
    ours = not ray.is_initialized()
    if ours:
        try:
            if cluster.count(":") == 1:  # Ray itself tries for minutes
                host, _, port = cluster.partition(":")
                socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
            ray.init(address=cluster, log_to_driver=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"no Ray cluster answers at {cluster}: start one with ray start --head") from error
    try:
        # A task whose node is lost runs again elsewhere; one that fails by itself does not.
        remote: Any = ray.remote(num_cpus=1, max_retries=5)(function)
        limit = workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
        left = iter(enumerate(arguments))
        while True:
            while len(waiting) < AHEAD * limit and (following := next(left, None)) is not None:
                waiting[remote.remote(following[1])] = following[0]
            if not waiting:
                return
            done, _ = ray.wait(list(waiting), num_returns=1)
            for reference in done:
                yield waiting.pop(reference), ray.get(reference)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        raise ValueError(f"the cluster lost a task: {str(error).splitlines()[0]}") from error
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
        if ours:
            ray.shutdown()
