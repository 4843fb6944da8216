"""A graph of tasks on a Ray cluster: each runs as soon as those before it are done and what it needs is free.

Ray alone schedules: the results of the tasks before are arguments of a Ray task, so Ray starts it when they are
there, on a node that has its resources free; one that fails fails those that need it, and no other. The tasks
belong to the process that submits them: they end with it, however it ends.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError, TaskUnschedulableError

from cli.errors import Failure

POLL_SECONDS = 0.5

Tell = Callable[[float], None]
"""Tells how much of a task is done, from 0 to 1; it never waits."""


@dataclass(frozen=True)
class GraphTask:
    """A task, and the tasks whose results it needs."""

    name: str
    call: Callable[..., Any]
    """Called with a `Tell` and the results of `after`, in order."""
    after: tuple[str, ...]
    resources: Mapping[str, float]
    """Amount by Ray's name of the resource: CPU, GPU. None for one that reserves its workers' by itself."""
    max_retries: int = 3
    """How often it runs again where its process or node was lost."""


@dataclass(frozen=True)
class Snapshot:
    """What is known of a graph at one moment."""

    running: Mapping[str, float]
    """Task -> how much of it is done, of those that have started and not ended."""
    results: Mapping[str, Any]
    errors: Mapping[str, Exception]
    """Task -> why it failed. Tasks that needed it are in `not_run`."""
    not_run: Mapping[str, str]
    """Task -> the failed task that it needed."""

    @property
    def ended(self) -> int:
        """Tasks that will not run any more."""
        return len(self.results) + len(self.errors) + len(self.not_run)


def run_graph(tasks: Sequence[GraphTask]) -> Iterator[Snapshot]:
    """Run the tasks, each listed after those that it needs, on the cluster that this process has joined.

    Yields a snapshot whenever one has ended, and every half second.
    """
    board: Any = ray.remote(num_cpus=0)(_Board).remote()
    references: dict[str, Any] = {}
    for task in tasks:
        remote: Any = ray.remote(
            num_cpus=task.resources.get("CPU", 0),
            num_gpus=task.resources.get("GPU", 0),
            max_retries=task.max_retries,
        )(_run)
        needed = [references[name] for name in task.after]
        references[task.name] = remote.options(name=task.name).remote(task.call, task.name, board, *needed)
    names = {reference: name for name, reference in references.items()}
    after = {task.name: task.after for task in tasks}
    results: dict[str, Any] = {}
    errors: dict[str, Exception] = {}
    not_run: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        for name in sorted((names[reference] for reference in done), key=list(references).index):
            if failed := next((need for need in after[name] if need in errors or need in not_run), None):
                not_run[name] = not_run.get(failed, failed)
                continue
            try:
                results[name] = ray.get(references[name])
            except RayTaskError as error:
                errors[name] = error.cause if isinstance(error.cause, Exception) else error
            except RayError as error:
                errors[name] = Failure(_lost(error))
        ended = {*results, *errors, *not_run}
        progress: dict[str, float] = ray.get(board.read.remote())
        running = {name: share for name, share in progress.items() if name not in ended}
        yield Snapshot(running, dict(results), dict(errors), dict(not_run))
        if waiting and not done:
            time.sleep(POLL_SECONDS)


class _Board:
    """The actor that tasks tell their progress."""

    def __init__(self) -> None:
        self._shares: dict[str, float] = {}

    def tell(self, name: str, share: float) -> None:
        self._shares[name] = share

    def read(self) -> dict[str, float]:
        return self._shares


def _run(call: Callable[..., Any], name: str, board: Any, *needed: Any) -> Any:
    tell = partial(_tell, board, name)
    tell(0.0)
    return call(tell, *needed)


def _tell(board: Any, name: str, share: float) -> None:
    board.tell.remote(name, share)


def _lost(error: RayError) -> str:
    reason = " ".join(str(error).split())
    if isinstance(error, TaskUnschedulableError):
        return f"the cluster cannot run it: {reason}"
    return f"its process or node was lost more often than --layout.max-failures: {reason[:300]}"
