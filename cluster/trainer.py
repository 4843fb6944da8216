"""Runs a function on every worker of a Ray Train worker group.

Ray places the workers, sets up their process group and restarts them after a crash; the function itself
resumes from what it has saved.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import ray
import ray.train
import ray.train.torch
import torch
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from cli.errors import Failure
from cluster.capacity import Resources, wait_for_room
from cluster.connection import connect
from cluster.layout import Layout, Worker
from cluster.listening import Teller, listening
from cluster.stop_request import StopRequest
from cluster.stopping import Interruption, beside_signals, listen

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


def run(
    loop: Callable[[Worker, Job], Outcome],
    job: Job,
    layout: Layout,
    listener: Callable[[Any], None] | None = None,
    interruption: Interruption | None = None,
) -> Outcome:
    """Call `loop(worker, job)` on every worker and return the result of rank 0. `listener` is called here with
    what a worker tells. `interruption`: has workers end by themselves at a signal to this process, which must
    call this from its main thread.

    UserError where the cluster has no room, Failure where the workers failed more than `layout.max_failures`
    times.
    """
    connect()
    resources = wait_for_room(layout)
    # Ray keeps state of its own, none of which the loop needs again: on the disk of this process, which Ray's
    # controller shares, it neither meets an outage of the run's store nor is left there.
    with (
        TemporaryDirectory(prefix="ray-train-", ignore_cleanup_errors=True) as own_state,
        listening(listener) as mailbox,
        interruption.reaching_workers() if interruption is not None else nullcontext() as sign,
        _address_for_ray_train(),
    ):
        config = {"loop": loop, "job": job, "threads": int(resources["CPU"]), "mailbox": mailbox, "sign": sign}
        trainer = _trainer(config, layout, resources, own_state)
        try:
            done = trainer.fit() if interruption is None else beside_signals(trainer.fit)
            return done.return_value  # type: ignore[attr-defined]  # annotated for Train V1
        except TrainingFailedError as error:
            failures = getattr(error, "worker_failures", {})
            ranks = "; ".join(f"rank {rank}: {_last_line(e)}" for rank, e in sorted(failures.items()))
            raise Failure(f"the workers failed: {ranks or _last_line(error)}") from error


@contextmanager
def _address_for_ray_train() -> Iterator[None]:
    """Hand the cluster's address on to Ray Train's own actors.

    One of them, which frees the workers' resources after a killed driver, otherwise looks for "the" cluster of
    its machine, and dies where there are several.
    """
    variable = "RAY_ADDRESS"
    before = os.environ.get(variable)
    os.environ[variable] = ray.get_runtime_context().gcs_address
    ENV_VARS_TO_PROPAGATE.add(variable)
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def _trainer(config: dict[str, Any], layout: Layout, resources: Resources, own_state: str) -> TorchTrainer:
    return TorchTrainer(
        _on_worker,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=layout.workers,
            use_gpu="GPU" in resources,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(  # type: ignore[arg-type]  # annotated for Train V1
            # `loop` resumes by itself: under a new name Ray does not resume as well.
            name=uuid.uuid4().hex[:8],
            storage_path=own_state,
            failure_config=FailureConfig(max_failures=layout.max_failures),
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
    )
    if config["sign"] is not None:
        listen(config["sign"], worker.rank, worker.stop)
    try:
        return config["loop"](worker, config["job"])
    finally:
        if tell is not None:
            tell.flush()


def _last_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
