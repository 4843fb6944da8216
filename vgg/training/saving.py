"""Saves a training on rank 0 while it goes on; what went wrong all workers hear."""

from collections.abc import Callable
from types import TracebackType

import torch

from cli.errors import Failure, UserError
from cluster.collectives import broadcast, first_problem
from pipelines.storage.folder import Folder
from pipelines.storage.patience import StoreUnavailable
from vgg.weights.checkpoint import Checkpoint, DamagedCheckpoint
from vgg.weights.lease import Lease
from vgg.weights.state import Copies
from vgg.weights.writer import CheckpointWriter

WRITE_ERRORS = (OSError, Failure, DamagedCheckpoint)
"""Of a checkpoint's storage: no restart of the workers would mend them."""


class Saver:
    """The checkpoints of one attempt; a context manager."""

    def __init__(
        self, folder: Folder, lease: Lease | None, saved_step: int | None, device: torch.device
    ) -> None:
        """`lease`: rank 0's, which writes for all. `saved_step`: of the checkpoint that was resumed from.
        `device`: of this worker."""
        self.folder, self.saved_step, self._device = folder, saved_step, device
        self._copies = Copies()
        self._writer = None if lease is None else CheckpointWriter(folder, lease.check)

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def save(
        self, step: int, state: Callable[[Copies], Checkpoint], *, best: bool, epoch: int | None = None
    ) -> str | None:
        """Start writing what `state` copies, once the one before is written, whose memory it overwrites; on
        every worker, what went wrong with that. `epoch`: see `vgg.weights.retention.write`.

        What is there already, and is no new best, is not written again: who is killed meanwhile would lose it.
        """
        problem = None
        if self._writer is not None and (best or step != self.saved_step):
            try:
                self._writer.wait()
                self._writer.submit(state(self._copies), best=best, epoch=epoch)
                self.saved_step = step
            except WRITE_ERRORS as error:
                problem = _problem("a checkpoint", error)
        return first_problem(problem)

    def go_back(self, step: int) -> Checkpoint | str:
        """On every worker the newest checkpoint without update `step`, or why there is none to go on from."""
        found: Checkpoint | str | None = None
        if self._writer is not None:
            try:
                found = self._writer.go_back(step)
            except (*WRITE_ERRORS, UserError) as error:
                found = f"its checkpoints cannot be read: {error}"
        found = broadcast(found, self._device)
        assert found is not None
        if isinstance(found, Checkpoint):
            self.saved_step = found.step
        return found

    def finish(self) -> str | None:
        """Wait until all is on storage; on rank 0, what went wrong."""
        try:
            if self._writer is not None:
                self._writer.wait()
        except WRITE_ERRORS as error:
            return _problem("the last checkpoint", error)
        return None

    def kept(self) -> str:
        """What is on storage, for a training that ends."""
        if (problem := self.finish()) is not None:
            return problem
        if self.saved_step is None:
            return "no checkpoint had been saved before it"
        return f"the checkpoint of step {self.saved_step} is kept in {self.folder.uri}"


def _problem(what: str, error: Exception) -> str:
    """Why it could not be written and, where that can be mended, what to do then."""
    mended = isinstance(error, OSError | StoreUnavailable)
    then = "; once it can be, the same command goes on from the newest checkpoint" if mended else ""
    return f"{what} could not be written: {error}{then}"
