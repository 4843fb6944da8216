"""Hands tasks to a group of workers, each of which is set up once, and takes their results as they come.

A worker that dies is set up again and its tasks are run again; the results do not depend on who worked.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from cluster.capacity import wait_for_room
from cluster.connection import connect
from cluster.layout import Layout, Worker

Payload = TypeVar("Payload")


Task = TypeVar("Task")


Result = TypeVar("Result")


QUEUED = 2  # tasks given to a worker ahead, so that it never waits for the next


def run_on_workers(
    make: Callable[[Worker, Payload], Callable[[Task], Result]],
    payload: Payload,
    tasks: Iterable[Task],
    layout: Layout,
) -> Iterator[tuple[Task, Result]]:
    """Call `make(worker, payload)` on every worker, then what it returns on every task; in no fixed order.

    ValueError where the cluster has no room, or where `make` or a task raised one. RuntimeError where a worker
    died more often than the layout allows.
    """
    connect()
    resources = wait_for_room(layout)
    host = ray.remote(
        num_cpus=resources["CPU"],
        num_gpus=resources.get("GPU", 0),
        max_restarts=layout.max_failures,
        max_task_retries=-1,
    )(_WorkerActor)
    shared = ray.put(payload)
    hosts: list[Any] = [
        host.remote(make, shared, rank, layout.workers, layout.cpus_per_worker)
        for rank in range(layout.workers)
    ]
    waiting, running = iter(tasks), {}

    def give(to: Any) -> None:
        for task in waiting:
            running[to.run.remote(task)] = (to, task)
            return

    try:
        for each in hosts * QUEUED:
            give(each)
        while running:
            (ready,), _ = ray.wait(list(running))
            to, task = running.pop(ready)
            result = ray.get(ready)
            give(to)
            yield task, result
    except RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise ValueError(str(error.cause)) from error
        raise RuntimeError(f"a worker failed: {error.cause!r}") from error
    except RayActorError as error:
        if isinstance(cause := getattr(error, "cause", None), ValueError):
            raise ValueError(str(cause)) from error
        raise RuntimeError(f"a worker died more than --layout.max-failures times: {error}") from error
    finally:
        for each in hosts:
            ray.kill(each)


class _WorkerActor:
    """The actor around one worker."""

    def __init__(self, make: Callable[..., Any], payload: Any, rank: int, world: int, threads: int) -> None:
        torch.set_num_threads(threads)
        device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        self._work = make(Worker(rank, world, 0, device, threads), payload)

    def run(self, task: Any) -> Any:
        return self._work(task)
