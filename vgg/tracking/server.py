"""The MLflow server: its tracking URI, and the address of its pages."""

import os
import re


def tracking_uri(track: str) -> str | None:
    """The URI given as --track, else in MLFLOW_TRACKING_URI; None where neither is set: nothing is tracked."""
    return track or os.environ.get("MLFLOW_TRACKING_URI") or None


def page_address(uri: str) -> str:
    """The base URL of the server's pages: the tracking URI without its credentials."""
    return re.sub(r"//[^/@]*@", "//", uri).rstrip("/")
