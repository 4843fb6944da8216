"""The end of a tracked training whose workers cannot tell it: they were killed with it, or failed."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from vgg.tracking.messages import print_message
from vgg.tracking.mlflow_client import (
    ServerUnavailable,
    Undeliverable,
    connect,
    translated_errors,
)
from vgg.tracking.run_info import unix_time_ms

if TYPE_CHECKING:
    from mlflow import MlflowClient

ATTEMPT_TAG = "attempt"
ENDING_SECONDS = 10.0
"""How long an interruption waits for the server. `ray job stop` allows three seconds in all."""


@contextmanager
def ending_run(uri: str | None, attempt: str) -> Iterator[None]:
    """If the block raises, end the run that this attempt has in MLflow: KILLED by Ctrl-C or SIGTERM, or FAILED.

    Nothing if it has none there, or has ended it itself. Enter it once Ray is connected: connecting makes
    SIGTERM end the process at once.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _exit)
    if uri is not None:
        threading.Thread(target=_import_mlflow, daemon=True).start()
    try:
        yield
    except BaseException as error:
        if uri is not None:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            end_run(uri, attempt, status)
        raise


def end_run(uri: str, attempt: str, status: str) -> None:
    """End the run of this attempt, if the server answers soon."""
    ending = threading.Thread(target=_end_run, args=(uri, attempt, status), daemon=True)
    ending.start()
    ending.join(ENDING_SECONDS)


def _end_run(uri: str, attempt: str, status: str) -> None:
    try:
        with translated_errors():
            client = connect(uri)
            for run in running_runs(client, attempt):
                client.set_terminated(run, status, unix_time_ms())
    except (ServerUnavailable, Undeliverable) as error:
        print_message(f"the run in MLflow stays RUNNING until it is resumed or its spool delivered: {error}")


def running_runs(client: "MlflowClient", attempt: str) -> list[str]:
    """The ids of the runs of an attempt that have not ended."""
    everywhere = [each.experiment_id for each in client.search_experiments()]
    running = f"tags.`{ATTEMPT_TAG}` = '{attempt}' and attributes.status = 'RUNNING'"
    return [run.info.run_id for run in client.search_runs(everywhere, running)]


def _exit(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)  # as a shell reports it


def _import_mlflow() -> None:
    """Beforehand: it takes seconds, which a process that is told to stop is not given."""
    import mlflow  # noqa: F401
