"""Joins a Ray cluster."""

import os
import socket

import ray
import ray.train
import ray.train.torch
from ray.exceptions import AuthenticationError

from cli.errors import UserError

CONNECT_SECONDS = 10.0


def connect(address: str | None = None) -> None:
    """Join the cluster at `address`; by default that of RAY_ADDRESS or of this machine, or a new one that ends
    with this process.

    Does nothing in a process that has joined a cluster. UserError if the address is malformed, or the cluster
    does not answer within `CONNECT_SECONDS` or does not authenticate this process.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # it would print every line twice
    from_environment = os.environ.get("RAY_ADDRESS", "")
    target = address or from_environment
    where = f"at {target}" if target else "on this machine"
    if not _may_answer(target.removeprefix("ray://")):
        remedy = " or unset RAY_ADDRESS" if target == from_environment else ""
        raise UserError(f"no Ray cluster answers {where}: start one (ray start --head){remedy}")
    try:
        ray.init(address=address, log_to_driver=True)
    except (ConnectionError, AuthenticationError) as error:
        raise UserError(
            f"cannot join the Ray cluster {where}: none answers there, or it wants a token (then export "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN where ~/.ray/auth_token is not the cluster's)"
        ) from error
    except ValueError as error:
        if not target:
            raise
        raise UserError(f"{target} is not the address of a Ray cluster: {error}") from error


def _may_answer(target: str) -> bool:
    """False if `target` is a host and port where nothing listens: Ray itself would try for minutes."""
    if target.count(":") != 1:
        return True
    host, _, port = target.partition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True
