"""What the command notes in a training's run of MLflow while its workers, who track it, cannot."""

import threading
import time

from vgg.tracking.cut_off import running_runs
from vgg.tracking.messages import print_message
from vgg.tracking.mlflow_client import ServerUnavailable, Undeliverable, connect, translated_errors

HANG_TAG = "hang"
LONGEST_TAG = 4000
"""Characters: servers refuse longer ones."""
RUN_SECONDS, POLL_SECONDS = 600.0, 1.0
"""How long a run that is not there yet is waited for, and how often it is looked for."""


def remark(uri: str | None, attempt: str, text: str) -> None:
    """Tag the run of this attempt with the last worker that did not go on, without waiting for the server.

    Nothing where the training is not tracked. A run that is not there yet is waited for: the worker that would
    have made it may be the one that does not go on, and the next makes it.
    """
    if uri is not None:
        threading.Thread(target=_tag, args=(uri, attempt, text), name="remark", daemon=True).start()


def _tag(uri: str, attempt: str, text: str) -> None:
    try:
        with translated_errors():
            client, until = connect(uri), time.monotonic() + RUN_SECONDS
            while not (runs := running_runs(client, attempt)) and time.monotonic() < until:
                time.sleep(POLL_SECONDS)
            for run in runs:
                client.set_tag(run, HANG_TAG, text[:LONGEST_TAG])
    except (ServerUnavailable, Undeliverable) as error:
        print_message(f"not noted in MLflow: {error}")
