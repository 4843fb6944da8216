"""The address of the MLflow server."""

import os
import re
from urllib.parse import urlsplit

from cli.addresses import refuse_secret
from cli.errors import UserError

VARIABLE = "MLFLOW_TRACKING_URI"


def tracking_uri(track: str, flag: str = "--track") -> str | None:
    """The address given as `flag`, else in MLFLOW_TRACKING_URI; None if neither is set: nothing is tracked.

    UserError if it is not that of a server, or holds a user name or a password.
    """
    name, address = (flag, track) if track else (VARIABLE, os.environ.get(VARIABLE, ""))
    if not address:
        return None
    refuse_secret(address, name)
    if not _is_server(address):
        shown = address.partition("?")[0].partition("#")[0]
        raise UserError(f"{name} {shown} is not the address of an MLflow server, such as http://host:5000")
    return address


def page_address(uri: str) -> str:
    """The base of the addresses of the server's pages: without credentials, which a run of old may have."""
    return re.sub(r"//[^/@]*@", "//", uri).rstrip("/")


def ui_page(uri: str, route: str) -> str:
    """Address of a page of the server's UI in the mode that shows Runs and Models, which its default hides."""
    return f"{page_address(uri)}/#/{route}{'&' if '?' in route else '?'}workflowType=machine_learning"


def _is_server(address: str) -> bool:
    """Whether it is http:// or https://, a host, perhaps a port and a path, and nothing else."""
    if not address.isprintable() or any(letter in address for letter in " ?#\\"):
        return False
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:  # a port that is no number, a malformed IPv6 address
        return False
    named = "://" in address and bool(parts.hostname) and not parts.netloc.endswith(":")
    return parts.scheme in ("http", "https") and named and port != 0
