"""Runs a function on every worker of a Ray Train worker group.

Ray places the workers, sets up their process group and restarts them after a crash; the function itself
resumes from what it has saved.
"""

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import ray
import ray.train
import ray.train.torch
import torch
from ray.exceptions import ActorDiedError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.constants import (
    ENV_VARS_TO_PROPAGATE,
    HEALTH_CHECK_INTERVAL_S_ENV_VAR,
    WORKER_GROUP_START_TIMEOUT_S_ENV_VAR,
)
from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from cli.errors import Failure, UserError
from cluster.beats import beating
from cluster.connection import SHUTDOWN_SECONDS, connect
from cluster.elastic import Growth, Room, find_room
from cluster.exported import Gauges
from cluster.head import OnLost, watched_head
from cluster.layout import Layout, Worker
from cluster.left_behind import free_left_behind
from cluster.listening import Teller, listening
from cluster.losses import last_line, through_losses
from cluster.stop_request import StopRequest
from cluster.stopping import Interruption, beside_signals, listen
from cluster.watching import OnHang, watching

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")

COLLECTIVE_SECONDS = 24 * 3600
"""How long a worker waits for the others in a collective operation: they may stage data for hours, and its own
end would blame the wrong one. Who does not come is found by `cluster.watching`."""
NOTICING_SECONDS = "0.5"
"""How often Ray's controller asks the workers whether they live; by itself every two seconds."""
PLACING_SECONDS = 10.0
"""The least that Ray is given to place workers for whom there is room."""


def run(
    loop: Callable[[Worker, Job], Outcome],
    job: Job,
    layout: Layout,
    listener: Callable[[Any], None] | None = None,
    interruption: Interruption | None = None,
    on_hang: OnHang | None = None,
    on_lost: OnLost | None = None,
) -> Outcome:
    """Call `loop(worker, job)` on every worker and return the result of rank 0. `listener` is called here with
    what a worker tells. `interruption`: has workers end by themselves at a signal to this process, which must
    call this from its main thread. `on_hang` is called with what is said of a worker that does not go on,
    `on_lost` where the cluster's head is gone: it has to end this process.

    With a range of workers, those that are lost are done without, and `loop` is asked to save and end when
    there is room for more. UserError where the cluster has no room, Failure where the workers failed more than
    `layout.max_failures` times, or have no room any more.
    """
    connect()
    failures = 0
    while True:
        room = _room(layout, failures)
        layout = replace(layout, device="gpu" if "GPU" in room.per_worker else "cpu")
        try:
            return _run_group(loop, job, layout, room, listener, interruption, on_hang, on_lost)
        except (TrainingFailedError, ActorDiedError) as error:
            failures += 1
            is_stopped = interruption is not None and interruption.number is not None
            if not layout.is_range or failures > layout.max_failures or is_stopped:
                raise Failure(f"the workers failed: {_told(error)}") from error
            print(
                f"of {room.workers} workers some were lost ({_told(error)}): going on from the newest "
                "checkpoint with those that there is room for",
                file=sys.stderr,
                flush=True,
            )
            free_left_behind()


def _room(layout: Layout, failures: int) -> Room:
    try:
        return find_room(layout)
    except UserError as error:
        if not failures:
            raise
        raise Failure(f"workers were lost, and there is no room for the fewest: {error}") from error


def _run_group(
    loop: Callable[[Worker, Job], Outcome],
    job: Job,
    layout: Layout,
    room: Room,
    listener: Callable[[Any], None] | None,
    interruption: Interruption | None,
    on_hang: OnHang | None,
    on_lost: OnLost | None,
) -> Outcome:
    """One group of workers, restarted by Ray where the layout has a fixed number of them."""
    is_time_for_more = Growth(layout, room.workers).is_due
    # Ray keeps state of its own, none of which the loop needs again: on the disk of this process, which Ray's
    # controller shares, it neither meets an outage of the run's store nor is left there.
    with (
        watched_head(on_lost),  # first: without a head the others' ends do not return
        TemporaryDirectory(prefix="ray-train-", ignore_cleanup_errors=True) as own_state,
        listening(listener) as mailbox,
        interruption.reaching_workers(is_time_for_more) if interruption is not None else nullcontext() as sign,
        watching(room.workers, layout.hang_seconds, on_hang) as beats,
        _variables_for_ray_train(layout),
    ):
        actors = {"mailbox": mailbox, "sign": sign, "beats": beats}
        config = {"loop": loop, "job": job, "threads": int(room.per_worker["CPU"]), **actors}

        def attempt(failures: int) -> Outcome:
            trainer = _trainer(config, room, own_state, failures)
            done = trainer.fit() if interruption is None else beside_signals(trainer.fit)
            return done.return_value  # type: ignore[attr-defined]  # annotated for Train V1

        return attempt(0) if layout.is_range else through_losses(attempt, layout)


@contextmanager
def _variables_for_ray_train(layout: Layout) -> Iterator[None]:
    """Hand on to Ray Train's own actors how long the workers' room is waited for, and the cluster's address.

    One of them, which frees the workers' resources after a killed driver, otherwise looks for "the" cluster of
    its machine, and dies where there are several.
    """
    placing = PLACING_SECONDS if layout.is_range else max(layout.wait_seconds, PLACING_SECONDS)
    ours = {
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        WORKER_GROUP_START_TIMEOUT_S_ENV_VAR: str(placing),
        HEALTH_CHECK_INTERVAL_S_ENV_VAR: os.environ.get(HEALTH_CHECK_INTERVAL_S_ENV_VAR, NOTICING_SECONDS),
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    ENV_VARS_TO_PROPAGATE.update({"RAY_ADDRESS", SHUTDOWN_SECONDS})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _trainer(config: dict[str, Any], room: Room, own_state: str, failures: int) -> TorchTrainer:
    return TorchTrainer(
        _on_worker,
        train_loop_config=config,
        torch_config=TorchConfig(timeout_s=COLLECTIVE_SECONDS),
        scaling_config=ScalingConfig(
            num_workers=room.workers,
            use_gpu="GPU" in room.per_worker,
            resources_per_worker=room.per_worker,
            label_selector=room.label_selector,
        ),
        run_config=RunConfig(  # type: ignore[arg-type]  # annotated for Train V1
            # `loop` resumes by itself: under a new name Ray does not resume as well.
            name=uuid.uuid4().hex[:8],
            storage_path=own_state,
            # Without a limit of the second kind workers for whom there is no room are waited for without end.
            failure_config=FailureConfig(max_failures=failures, controller_failure_limit=0),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def _on_worker(config: dict[str, Any]) -> Any:
    context = ray.train.get_context()
    torch.set_num_threads(config["threads"])
    tell = None if config["mailbox"] is None else Teller(config["mailbox"])
    worker = Worker(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        local_rank=context.get_local_rank(),
        device=ray.train.torch.get_device(),
        threads=config["threads"],
        tell=tell,
        stop=StopRequest(),
        export=Gauges(),
    )
    if config["sign"] is not None:
        listen(config["sign"], worker.rank, worker.stop)
    try:
        with beating(config["beats"], worker):
            return config["loop"](worker, config["job"])
    finally:
        if tell is not None:
            tell.flush()


def _told(error: Exception) -> str:
    failures = sorted(getattr(error, "worker_failures", {}).items())
    return "; ".join(f"rank {rank}: {last_line(each)}" for rank, each in failures) or last_line(error)
