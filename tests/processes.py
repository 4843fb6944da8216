"""The workers' loop in plain processes joined by gloo: what Ray would start, without its start-up time."""

import socket
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from cluster.layout import Layout, Worker
from cluster.stop_request import StopRequest
from pipelines.shards.manifest import read_manifest
from vgg.recipes.registry import RECIPES
from vgg.recipes.schema import Recipe
from vgg.tracking.observers import training_observers
from vgg.tracking.picture_files import PictureFiles
from vgg.training.events import Observer, RunContext
from vgg.training.job import Job, Outcome
from vgg.training.loop import train
from vgg.training.plan import TrainingPlan

Asking = Callable[[int], StopRequest]
"""What a worker of this rank is asked."""

Around = Callable[[int], AbstractContextManager[None]]


@contextmanager
def with_processor(*has: str) -> Iterator[None]:
    """This process takes its CPU for one with these instructions alone, as torch.cpu.get_capabilities names
    them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(has, True))
        yield


def _as_it_is(_: int) -> AbstractContextManager[None]:
    return nullcontext()


def _nothing(_: int) -> StopRequest:
    return StopRequest()


def job(data: Path | str, out: Path | str, recipe: Recipe | None = None, seed: int = 0, **changes) -> Job:
    """A training of the digits recipe, untracked."""
    manifest = read_manifest(data)
    base = Job(
        plan=TrainingPlan.resolve("digits", recipe or RECIPES["digits"][1], seed, str(data), manifest),
        out=str(out),
        attempt=uuid.uuid4().hex,
        layout=Layout(),
        uid="0" * 32,
        tracking_uri=None,
        experiment="tests",
    )
    return replace(base, **changes)


class Workers:
    """Up to four processes, each started when it is needed; a context manager."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(4, mp_context=get_context("spawn"))

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def run(self, world: int, what: Job, around: Around = _as_it_is, asking: Asking = _nothing) -> Outcome:
        """Train on so many workers; rank 0's outcome. `around`: entered by each process with its rank."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        futures = [self._pool.submit(_run, rank, world, port, what, around, asking) for rank in range(world)]
        outcomes = [future.result(timeout=120) for future in futures]
        return outcomes[0]


def without_pictures(context: RunContext) -> list[Observer]:
    """The observers of a training but the pictures of a classifier's that is not tracked: three seconds of
    drawing that few tests look at."""
    drawn = context.job.tracking_uri is not None or context.job.plan.architecture.boxes is not None
    return [each for each in training_observers(context) if drawn or not isinstance(each, PictureFiles)]


def _run(rank: int, world: int, port: int, what: Job, around: Around, asking: Asking) -> Outcome:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    try:
        with around(rank):
            worker = Worker(rank, world, rank, torch.device("cpu"), 1, stop=asking(rank))
            return train(worker, what, without_pictures)
    finally:
        dist.destroy_process_group()
