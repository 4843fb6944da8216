"""Which MLflow server, and the address of its pages."""

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def tracking_uri(track: str) -> str | None:
    """The MLflow server of --track, else of MLFLOW_TRACKING_URI; None: nothing is tracked."""
    return track or os.environ.get("MLFLOW_TRACKING_URI") or None


def page_address(uri: str) -> str:
    """Of the server's pages, without the login that a tracking URI may hold."""
    return re.sub(r"//[^/@]*@", "//", uri).rstrip("/")
