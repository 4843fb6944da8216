"""Who may use a cluster: its token, and the addresses at which its processes listen.

Ray runs what anybody who reaches its ports asks for, as the user who started it. So every cluster has a token
of its own, and one on loopback keeps to loopback: Ray would put the machine's address in place of 127.0.0.1.
"""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

TOKEN_FILE = "auth_token"
TOKEN_BYTES = 32
STAY_ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""With it Ray keeps 127.0.0.1 as a node's address; its default away from Linux."""
VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", *STAY_ON_LOOPBACK)
"""All that decides how Ray authenticates and which address it takes."""


def create_token(folder: Path) -> Path:
    """A new random token in a file of `folder` that this user alone can read."""
    path = folder / TOKEN_FILE
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(TOKEN_BYTES))
    return path


def access_variables(token_path: str, *, on_loopback: bool) -> dict[str, str]:
    """The variables with which a process of a cluster, or a client, uses its token and its addresses."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token_path}
    return {**token, **(STAY_ON_LOOPBACK if on_loopback else {})}


def environment_with(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `variables` in place of all that it says of another cluster's access."""
    return {**{name: value for name, value in os.environ.items() if name not in VARIABLES}, **variables}


def use_in_this_process(variables: Mapping[str, str]) -> None:
    """Let Ray in this process, and processes that it starts, use these variables."""
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled

    for name in VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(variables)
    # Ray reads them when it is imported, and keeps them.
    ray_constants.ENABLE_RAY_CLUSTER = not set(STAY_ON_LOOPBACK) <= set(variables)
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
