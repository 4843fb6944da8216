"""What runs the tasks of a command in tests: the cluster's work without its start-up time."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

import torch

from cluster.layout import Worker


@contextmanager
def one_thread() -> Iterator[None]:
    """This process computes as a worker that has one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def in_this_process(make, job, tasks, layout):
    """One after the other."""
    work = make(_alone(), job)
    return ((task, work(task)) for task in tasks)


def in_two_processes(make, job, tasks, layout):
    """The last task first."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        backwards = list(reversed(tasks))
        done = [pool.submit(_work, make, job, task) for task in backwards]
        found = [each.result(timeout=300) for each in done]
    assert len({pid for pid, _ in found}) == 2
    return zip(backwards, (result for _, result in found), strict=True)


def _work(make, job, task):
    torch.set_num_threads(1)
    return os.getpid(), make(_alone(), job)(task)


def _alone():
    return Worker(0, 1, 0, torch.device("cpu"), 1)
