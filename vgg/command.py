"""What all commands have in common."""

import os

from rich.console import Console


def complain(problem: object, code: int) -> int:
    """Say on standard error what went wrong; the exit code, for `sys.exit`."""
    Console(stderr=True, soft_wrap=True).print(f"error: {problem}", markup=False, style="red")
    return code


def tracking_uri(track: str) -> str | None:
    """The MLflow server of --track, else of MLFLOW_TRACKING_URI; None: nothing is tracked."""
    return track or os.environ.get("MLFLOW_TRACKING_URI") or None
