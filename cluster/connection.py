"""Joins a Ray cluster."""

import os
import socket

import ray
import ray.train
import ray.train.torch
from ray.exceptions import AuthenticationError

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
