"""What a training may lose besides workers, whom Ray Train replaces: Train's controller, or room for workers.

The process that started the training starts it again; the function that workers run resumes from what it saved.
"""

import sys
from collections.abc import Callable
from textwrap import shorten
from typing import TypeVar

from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError

from cli.errors import Failure, UserError
from cluster.capacity import wait_for_room
from cluster.layout import Layout
from cluster.left_behind import free_left_behind

Value = TypeVar("Value")

STARTING = (WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError)
TOLD_CHARACTERS = 200
"""Of what is told of a worker's failure."""


def through_losses(attempt: Callable[[int], Value], layout: Layout) -> Value:
    """The result of `attempt`, called again after a loss. It is handed how many failures of workers it may
    mend: a loss is one of `layout.max_failures`.

    Failure where there were more, where the cluster has no room within `layout.wait_seconds`, or where nobody
    knows whether the controller lives, and may go on.
    """
    allowed = layout.max_failures
    while True:
        try:
            return attempt(allowed)
        except ActorUnavailableError as error:
            raise Failure("Ray Train's controller does not answer") from error
        except (ActorDiedError, ControllerError) as error:
            lost = _loss(error)
            if lost is None:
                raise
            if allowed == 0:
                raise Failure(f"{lost}, and --layout.max-failures {layout.max_failures} are used up") from error
            allowed -= 1
        print(f"{lost}: starting the workers again, from the newest checkpoint", file=sys.stderr, flush=True)
        free_left_behind()
        try:
            wait_for_room(layout)
        except UserError as error:
            raise Failure(f"{lost}: {error}") from error


def _loss(error: Exception) -> str | None:
    """What was lost, for people; None where it is no loss."""
    if isinstance(error, ActorDiedError):
        return "Ray Train's controller was lost"
    failure = getattr(error, "controller_failure", None)
    if isinstance(failure, RayTaskError):  # raised by a worker before the function runs, as for want of memory
        return f"a worker failed as it started ({last_line(failure)})"
    return "the workers could not be started" if isinstance(failure, STARTING) else None


def last_line(error: BaseException) -> str:
    """What an error says at its end, where a remote one has its cause, shortened for people."""
    return shorten((str(error).strip() or type(error).__name__).splitlines()[-1], TOLD_CHARACTERS)
