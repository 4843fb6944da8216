"""The loop by which every kind of worker is kept busy: processes, Ray tasks and Ray actors."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

Task = TypeVar("Task")

Result = TypeVar("Result")

Handle = Any
"""A running task: a future of a process, or a reference of Ray."""


def hand_out(
    tasks: Iterable[Task],
    slots: Sequence[Callable[[Task], Handle]],
    *,
    wait: Callable[[list[Handle]], Iterable[Handle]],
    result: Callable[[Handle], Result],
    cancel: Callable[[Handle], object],
) -> Iterator[tuple[Task, Result]]:
    """Each task with its result, in the order in which they finish.

    A slot submits one task and takes the next when that one is done, so at most `len(slots)` are submitted at a
    time. `wait` blocks until at least one of the running tasks is done and returns those that are; `result`
    returns a task's result or raises its error. Tasks that still run when the loop ends early are cancelled.
    """
    waiting = iter(tasks)
    running: dict[Handle, tuple[Task, Callable[[Task], Handle]]] = {}

    def submit_next(slot: Callable[[Task], Handle]) -> None:
        for task in islice(waiting, 1):
            running[slot(task)] = (task, slot)

    try:
        for slot in slots:
            submit_next(slot)
        while running:
            for handle in wait(list(running)):
                task, slot = running.pop(handle)
                finished = result(handle)
                submit_next(slot)
                yield task, finished
    finally:
        for handle in running:
            cancel(handle)
