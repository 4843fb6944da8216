"""Runs a callable on every worker of a Ray Train group.

Ray places the workers, sets up their process group and starts them again after a crash; what they do, and
how they resume, is the callable's own business.
"""

import os
import socket
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import ray
import ray.train
import ray.train.torch
import torch
from pyarrow import fs
from ray.exceptions import AuthenticationError
from ray.train.torch import TorchTrainer
from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from cluster.strategy import Layout, Worker

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")

CONNECT_SECONDS = 10.0


def connect() -> None:
    """Join the cluster of RAY_ADDRESS or of this machine, or start one here that ends with this process.

    ValueError where that cluster does not answer, or does not let this process in.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # it would show every line twice
    address = os.environ.get("RAY_ADDRESS", "")
    where = f"at {address}" if address else "on this machine"
    if address.removeprefix("ray://").count(":") == 1:  # Ray itself would try for minutes
        host, _, port = address.removeprefix("ray://").partition(":")
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except (OSError, ValueError) as error:
            raise ValueError(
                f"no Ray cluster answers {where}: start one (ray start --head) or unset RAY_ADDRESS"
            ) from error
    try:
        ray.init(log_to_driver=True)
    except (ConnectionError, AuthenticationError) as error:
        raise ValueError(
            f"cannot join the Ray cluster {where}: none answers there, or it wants a token (then export "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN where ~/.ray/auth_token is not the cluster's)"
        ) from error


def run(
    loop: Callable[[Worker, Job], Outcome],
    job: Job,
    layout: Layout,
    *,
    filesystem: fs.FileSystem,
    path: str,
) -> Outcome:
    """Call `loop(worker, job)` on every worker and return what rank 0 returned.

    `filesystem` and `path` are a folder that every node reaches; Ray keeps its own notes there. ValueError
    where the cluster has no room, RuntimeError where the workers failed more often than the layout allows.
    """
    connect()
    resources = wait_for_room(layout)
    trainer = TorchTrainer(
        _on_worker,
        train_loop_config={"loop": loop, "job": job, "threads": layout.cpus_per_worker},
        scaling_config=ScalingConfig(
            num_workers=layout.workers,
            use_gpu="GPU" in resources,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(  # type: ignore[arg-type]  # the annotation is of version 1
            # The callable resumes by itself: a new name keeps Ray from resuming as well.
            name=uuid.uuid4().hex[:8],
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=layout.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        return trainer.fit().return_value  # type: ignore[attr-defined]  # as above
    except TrainingFailedError as error:
        failures = getattr(error, "worker_failures", {})
        ranks = "; ".join(f"rank {rank}: {_last_line(e)}" for rank, e in sorted(failures.items()))
        raise RuntimeError(f"the workers failed: {ranks or _last_line(error)}") from error


def wait_for_room(layout: Layout) -> dict[str, float]:
    """Resources of one worker, once the cluster has them free for all.

    ValueError, after `layout.wait_seconds`, that says what was asked and what is there.
    """
    deadline = time.monotonic() + layout.wait_seconds
    while True:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        resources = _resources_of_a_worker(layout, nodes)
        fitting = sum(
            int(min(node.get(name, 0) // amount for name, amount in resources.items())) for node in nodes
        )
        free = ray.available_resources()
        enough_free = all(free.get(name, 0) >= amount * layout.workers for name, amount in resources.items())
        if fitting >= layout.workers and enough_free:
            return resources
        if time.monotonic() >= deadline:
            break
        time.sleep(0.5)
    asked = " and ".join(f"{amount:g} {name}" for name, amount in resources.items())
    there = ", ".join(
        f"{sum(node.get(name, 0) for node in nodes):g} {name} ({free.get(name, 0):g} free)"
        for name in resources
    )
    raise ValueError(
        f"--layout.workers {layout.workers} asks for {layout.workers} workers of {asked} each; the cluster's "
        f"{len(nodes)} node(s) have {there}, room for {fitting}. Ask for fewer workers, add nodes, or wait "
        f"longer than --layout.wait-seconds {layout.wait_seconds:g}."
    )


def _resources_of_a_worker(layout: Layout, nodes: list[dict[str, float]]) -> dict[str, float]:
    gpus = sum(node.get("GPU", 0) for node in nodes)
    if layout.device == "gpu" or (layout.device == "auto" and gpus >= layout.workers):
        return {"CPU": layout.cpus_per_worker, "GPU": 1}
    return {"CPU": layout.cpus_per_worker}


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
