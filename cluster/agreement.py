"""After which piece of work all workers end: they look at the same moments; one that was asked is enough."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from cluster.layout import Worker
from cluster.progress import Part
from cluster.stop_request import Asked

Piece = TypeVar("Piece")

LOOK_SECONDS = 0.5


class Agreement:
    """What the workers have been asked, the same answer on each.

    Several workers look every `LOOK_SECONDS`, by a message between hosts that no GPU waits for; one worker
    alone looks each time.
    """

    def __init__(self, worker: Worker) -> None:
        """Every worker makes one at the same time."""
        self._request, self._progress = worker.stop, worker.progress
        self._is_alone = worker.world == 1
        self._group: Any = None
        if not self._is_alone and dist.get_backend() != "gloo":
            self._group = dist.new_group(backend="gloo")
        self._every, self._looked_at = 1, -1

    def set_pace(self, seconds_per_step: float) -> None:
        """Look every so many steps from now on; the same number on every worker."""
        self._every = max(1, int(LOOK_SECONDS / max(seconds_per_step, 1e-9)))

    def after(self, step: int) -> Asked:
        """What all have been asked, once it is time to look."""
        # A step that was passed before, as a training went back, is one to look at.
        if not self._is_alone and self._looked_at <= step < self._looked_at + self._every:
            return Asked.GO_ON
        self._looked_at = step
        return self.now()

    def now(self) -> Asked:
        """What any has been asked; every worker calls it at the same time."""
        if self._is_alone:
            return self._request.asked
        asked = torch.tensor(int(self._request.asked))
        with self._progress.at(Part.EXCHANGE):
            dist.all_reduce(asked, dist.ReduceOp.MAX, group=self._group)
        return Asked(int(asked))

    def until_asked(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The pieces of work until this worker is asked to end; whether one was, `now` says to all."""
        for piece in pieces:
            if self._request.asked:
                return
            self._progress.enter(Part.VALIDATING)
            yield piece
