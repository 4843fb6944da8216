"""Joins a Ray cluster."""

import atexit
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

import ray
import ray.train
import ray.train.torch
from ray._private import services
from ray.exceptions import AuthenticationError

from cli.errors import Failure, UserError
from cluster.access import STAY_ON_LOOPBACK, VARIABLES, access_variables, create_token, use_in_this_process
from cluster.processes import takes_connections

CONNECT_SECONDS = 10.0
SHUTDOWN_SECONDS = "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S"
ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # how soon the end of a worker is noticed
    SHUTDOWN_SECONDS: "3",  # how long an ending group waits for workers that do not answer
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it would print every line twice
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody asks it, and Ray complains of how it makes it
}
"""Ray's settings where the user has none."""
OWN_CLUSTER = (
    "starting a Ray cluster of this command's own, which ends with it (set RAY_ADDRESS to use a running one)"
)


def connect(address: str | None = None) -> None:
    """Join the cluster at `address`; by default that of RAY_ADDRESS or of this machine, or a new one that ends
    with this process, asks for a token and keeps to loopback.

    Does nothing in a process that has joined a cluster. UserError if the address is malformed, or the cluster
    does not answer within `CONNECT_SECONDS` or does not authenticate this process; Failure if a new one
    does not start.
    """
    if ray.is_initialized():
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from_environment = os.environ.get("RAY_ADDRESS", "")
    target = address or from_environment
    where = f"at {target}" if target else "on this machine"
    if not _may_answer(target.removeprefix("ray://")):
        remedy = " or unset RAY_ADDRESS" if target == from_environment else ""
        raise UserError(f"no Ray cluster answers {where}: start one (ray start --head){remedy}")
    if _keeps_to_loopback(target):
        use_in_this_process({**_access_of_this_process(), **STAY_ON_LOOPBACK})
    try:
        if address is None and services.canonicalize_bootstrap_address(address) is None:  # type: ignore[arg-type]
            _print_page(_start_in_this_process())
        else:
            _print_page(ray.init(address=address, logging_level=logging.WARNING).dashboard_url)
    except (ConnectionError, AuthenticationError) as error:
        raise UserError(
            f"cannot join the Ray cluster {where}: none answers there, or it wants a token (then export "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH, the token's file, where ~/.ray/auth_token is not "
            "the cluster's)"
        ) from error
    except ValueError as error:
        if not target:
            raise
        raise UserError(f"{target} is not the address of a Ray cluster: {error}") from error


def _start_in_this_process() -> str | None:
    folder = Path(tempfile.mkdtemp(prefix="ray-token-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    use_in_this_process(access_variables(str(create_token(folder)), on_loopback=True))
    print(OWN_CLUSTER, file=sys.stderr, flush=True)
    try:
        context = ray.init(
            address="local",
            logging_level=logging.WARNING,
            _node_ip_address="127.0.0.1",
            dashboard_host="127.0.0.1",
        )
    except Exception as error:
        if type(error) is not Exception:  # of this class alone, where a node takes 30 s to start
            raise
        raise Failure(
            f"a Ray cluster did not start on this machine: {error} Repeat the command when less runs here, or "
            "start a cluster first (ray start --head)."
        ) from error
    return context.dashboard_url


def _print_page(dashboard: str | None) -> None:
    """Say where Ray shows what this process runs."""
    if dashboard:
        token = os.environ.get("RAY_AUTH_TOKEN_PATH")
        asks = f", asks for the token in {token}" if token else ""
        print(f"Ray: http://{dashboard}/#/jobs/{ray.get_runtime_context().get_job_id()}{asks}", file=sys.stderr)


def _access_of_this_process() -> dict[str, str]:
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def _keeps_to_loopback(target: str) -> bool:
    """Whether a cluster at this machine's loopback address cannot be reached at its other address: Ray would
    look for it there."""
    host, _, port = target.partition(":")
    machine = services.get_node_ip_address()
    on_loopback = services.is_localhost(host) and not services.is_localhost(machine)
    return on_loopback and not _may_answer(f"{machine}:{port}")


def _may_answer(target: str) -> bool:
    """False if `target` is a host and port where nothing listens: Ray itself would try for minutes."""
    if target.count(":") != 1:
        return True
    host, _, port = target.partition(":")
    try:
        return takes_connections(host, int(port), CONNECT_SECONDS)
    except ValueError:
        return False
