"""Addresses of stores and servers as a user gives them.

One that holds a secret is refused and not repeated: a command's addresses are printed, kept and tracked.
"""

import re
from urllib.parse import unquote

from cli.errors import UserError

SERVER_FLAGS = ("--track", "--uri", "MLFLOW_TRACKING_URI")
_SERVER_VARIABLES = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
_STORE_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs": "AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET",
    "abfss": "AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET",
    "http": _SERVER_VARIABLES,
    "https": _SERVER_VARIABLES,
}
_URI = re.compile(r"([a-z][a-z0-9+.-]*):/+", re.IGNORECASE)  # s3:/x is what pathlib makes of s3://x
_SECRET_FIELD = re.compile(
    r"[?&;#][^=&;#]*(key|secret|token|passw|pwd|signature|sig=|credential(?!_kind))", re.IGNORECASE
)
_PASSWORD = re.compile(r"[^/]*:(?!\d+(/|$)).*@")
"""user:password@, whose password may hold a slash; not host:8020/path@x."""


def refuse_secret(address: str, name: str) -> None:
    """UserError if the address holds a user name, a password or a key. It says which variables to set instead.

    `address`: a path, or a URI of a server or of a store as `pyarrow.fs` takes it. `name`: the flag or variable
    that the address was given by.
    """
    if _holds_secret(address, server=name in SERVER_FLAGS):
        scheme = _URI.match(address)
        variables = _STORE_VARIABLES.get(scheme[1].lower() if scheme else "", "the environment")
        if name in SERVER_FLAGS:
            variables = _SERVER_VARIABLES
        raise UserError(
            f"{name} holds a user name, a password or a key, and addresses are printed and kept with results: "
            f"give the address without it, and set {variables} instead"
        )


def _holds_secret(address: str, *, server: bool) -> bool:
    uri = _URI.match(address)
    if uri is None:
        return server and "@" in address  # a scheme forgotten
    scheme = uri[1].lower()
    rest, mark, options = re.split(r"([?#])", unquote(address[uri.end() :]) + "?", maxsplit=1)
    if server or scheme in ("http", "https"):
        in_host = "@" in rest
    elif scheme == "file":
        in_host = False
    else:
        in_host = bool(_PASSWORD.match(rest)) or (scheme == "s3" and "@" in rest.partition("/")[0])
    return in_host or "@" in options or bool(_SECRET_FIELD.search(mark + options))
