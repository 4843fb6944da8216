"""Runs a function on every worker of a Ray Train worker group.

Ray places the workers, sets up their process group and restarts them after a crash; the function itself
resumes from what it has saved.
"""

import uuid
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import ray
import ray.train
import ray.train.torch
import torch
from ray.train.torch import TorchTrainer
from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from cli.errors import Failure
from cluster.capacity import Resources, wait_for_room
from cluster.connection import connect
from cluster.layout import Layout, Worker

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


def run(
    loop: Callable[[Worker, Job], Outcome],
    job: Job,
    layout: Layout,
) -> Outcome:
    """Call `loop(worker, job)` on every worker and return the result of rank 0.

    UserError where the cluster has no room, Failure where the workers failed more than `layout.max_failures`
    times.
    """
    connect()
    resources = wait_for_room(layout)
    # Ray keeps state of its own, none of which the loop needs again: on the disk of this process, which Ray's
    # controller shares, it neither meets an outage of the run's store nor is left there.
    with TemporaryDirectory(prefix="ray-train-", ignore_cleanup_errors=True) as own_state:
        trainer = _trainer(loop, job, layout, resources, own_state)
        try:
            return trainer.fit().return_value  # type: ignore[attr-defined]  # annotated for Train V1
        except TrainingFailedError as error:
            failures = getattr(error, "worker_failures", {})
            ranks = "; ".join(f"rank {rank}: {_last_line(e)}" for rank, e in sorted(failures.items()))
            raise Failure(f"the workers failed: {ranks or _last_line(error)}") from error


def _trainer(
    loop: Callable[[Worker, Job], Any], job: Job, layout: Layout, resources: Resources, own_state: str
) -> TorchTrainer:
    return TorchTrainer(
        _on_worker,
        train_loop_config={"loop": loop, "job": job, "threads": int(resources["CPU"])},
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
    worker = Worker(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        local_rank=context.get_local_rank(),
        device=ray.train.torch.get_device(),
        threads=config["threads"],
    )
    return config["loop"](worker, config["job"])


def _last_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
