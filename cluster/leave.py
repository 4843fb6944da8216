"""Ends what runs on this Ray node without loss, before the node goes: the last thing that a Pod does.

python -m cluster.leave jobs --seconds 40     on the head: stop its jobs, and wait for their end
python -m cluster.leave node --seconds 40     elsewhere: say that this node goes, and wait for its workers' end
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import psutil
import tyro
from ray import _raylet
from ray._private import services
from ray.core.generated import autoscaler_pb2
from ray.job_submission import JobSubmissionClient

from cli.command import exit_codes
from cli.errors import UserError
from cluster.newcomers import WORKER_CLASS

POLL_SECONDS = 0.5
WORKER = f"ray::{WORKER_CLASS}"
"""What Ray calls the process of a training's worker."""


@dataclass(frozen=True)
class Jobs:
    """Stop the running jobs and wait for their end."""

    seconds: float = 40.0
    """How long to wait."""
    dashboard: str = "http://127.0.0.1:8265"
    """URL of the jobs API."""


@dataclass(frozen=True)
class LeavingNode:
    """Say that this node goes, and wait until no training's worker is left on it."""

    seconds: float = 40.0
    """How long to wait."""


def main() -> None:
    """Stop or leave. Exit code 2 where this machine is no node, or the jobs API does not answer."""
    command = tyro.cli(
        Annotated[Jobs, tyro.conf.subcommand("jobs")] | Annotated[LeavingNode, tyro.conf.subcommand("node")],
        prog="python -m cluster.leave",
    )
    with exit_codes():
        if isinstance(command, Jobs):
            stop_jobs(command)
        else:
            leave(command.seconds)


def stop_jobs(command: Jobs) -> None:
    """All are asked first, as each may save what it is at."""
    try:
        client = JobSubmissionClient(command.dashboard)
    except ConnectionError as error:
        raise UserError(f"--dashboard {command.dashboard} does not answer") from error
    found = [job.submission_id for job in client.list_jobs() if not job.status.is_terminal()]
    running = [job for job in found if job is not None]
    for job in running:
        client.stop_job(job)
    _wait_while(lambda: any(not client.get_job_status(job).is_terminal() for job in running), command.seconds)


def leave(seconds: float) -> None:
    """Ray tells those who ask it, and places nothing on this node any more."""
    address = services.canonicalize_bootstrap_address(None)  # type: ignore[arg-type]
    if address is None:
        raise UserError("no Ray cluster is known here: set RAY_ADDRESS")
    client: Any = _raylet.GcsClient(address=address)  # type: ignore[attr-defined]
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")  # type: ignore[attr-defined]
    deadline_ms = int((time.time() + seconds) * 1000)
    client.drain_node(_own_node(client, address), reason, "its machine goes", deadline_ms)
    _wait_while(_has_workers, seconds)


def _own_node(client: Any, address: str) -> str:
    """The node whose address is one of this machine's, as hex; UserError where there is none."""
    own = {each.address for found in psutil.net_if_addrs().values() for each in found}
    for node, about in client.get_all_node_info().items():
        if about.node_manager_address in own and about.state == 0:  # ALIVE
            return str(node.hex())
    raise UserError(f"this machine is no node of the cluster at {address}")


def _has_workers() -> bool:
    lines = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    return any(line and line[0].startswith(WORKER) for line in lines)


def _wait_while(busy: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while busy() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
