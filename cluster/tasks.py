"""Runs tasks on a Ray cluster: as Ray tasks, or on actors that are set up once.

A task whose worker or node is lost runs again elsewhere; the results do not depend on who ran it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from cli.errors import Failure
from cluster.capacity import wait_for_room
from cluster.connection import connect
from cluster.hand_out import hand_out
from cluster.layout import Layout, Worker

Payload = TypeVar("Payload")

Task = TypeVar("Task")

Result = TypeVar("Result")

QUEUED_PER_WORKER = 2  # submitted ahead, so that no worker waits for its next task

MAX_RETRIES = 5  # of a Ray task whose node was lost


def run_as_ray_tasks(
    function: Callable[[Task], Result], arguments: Sequence[Task], workers: int | None, address: str
) -> Iterator[tuple[Task, Result]]:
    """Each argument with the function's result, in the order in which they finish, as tasks of one core each.

    `workers`: tasks that run at a time, by default as many as the cluster has cores. `address`: of the cluster,
    whose nodes must all reach what the function reads and writes. What the function raises is raised here;
    UserError if the cluster cannot be joined, Failure if it lost a task.
    """
    joined_here = not ray.is_initialized()
    connect(address)
    try:
        remote: Any = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(function)
        workers = workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
        with _translated_errors("the cluster lost a task"):
            yield from hand_out(
                arguments,
                [remote.remote] * workers * QUEUED_PER_WORKER,
                wait=_wait,
                result=_get,
                cancel=partial(ray.cancel, force=True),
            )
    finally:
        if joined_here:
            ray.shutdown()


def run_on_workers(
    make: Callable[[Worker, Payload], Callable[[Task], Result]],
    payload: Payload,
    tasks: Iterable[Task],
    layout: Layout,
) -> Iterator[tuple[Task, Result]]:
    """Each task with its result, in the order in which they finish.

    Every worker calls `make(worker, payload)` once, and what that returns for each of its tasks. What either
    raises is raised here; UserError if the cluster cannot be joined or has no room, Failure if a worker died
    more often than the layout allows.
    """
    connect()
    shared = ray.put(payload)  # referenced until the end: an actor that is restarted reads it again
    actors = _start_actors(make, layout)
    try:
        with _translated_errors("a worker died more than --layout.max-failures times"):
            yield from hand_out(
                tasks,
                [partial(actor.run.remote, [shared]) for actor in actors] * QUEUED_PER_WORKER,
                wait=_wait,
                result=_get,
                cancel=lambda _: None,  # killed with its actor
            )
    finally:
        for actor in actors:
            ray.kill(actor)


def _start_actors(make: Callable[..., Any], layout: Layout) -> list[Any]:
    resources = wait_for_room(layout)
    actor_class = ray.remote(
        num_cpus=resources["CPU"],
        num_gpus=resources.get("GPU", 0),
        max_restarts=layout.max_failures,
        max_task_retries=-1,
    )(_WorkerActor)
    return [
        actor_class.remote(make, rank, layout.workers, int(resources["CPU"])) for rank in range(layout.workers)
    ]


class _WorkerActor:
    """The actor around one worker.

    `make` is called at the first task: Ray does not tell the type of an error in a constructor, and warns of
    one that takes an object of its store. The payload comes with each task, as a reference to follow.
    """

    def __init__(self, make: Callable[..., Any], rank: int, world: int, threads: int) -> None:
        torch.set_num_threads(threads)
        device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        self._make = partial(make, Worker(rank, world, 0, device, threads))
        self._work: Callable[[Any], Any] | None = None

    def run(self, payload: list[Any], task: Any) -> Any:
        if self._work is None:
            self._work = self._make(ray.get(payload[0]))
        return self._work(task)


def _wait(references: list[Any]) -> list[Any]:
    done, _ = ray.wait(references)
    return done


def _get(reference: Any) -> Any:
    return ray.get(reference)


@contextmanager
def _translated_errors(lost: str) -> Iterator[None]:
    """Raise the original error of a task; a Failure that begins with `lost` for any other error of Ray."""
    try:
        yield
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        raise Failure(f"{lost}: {' '.join(str(error).split())}") from error
