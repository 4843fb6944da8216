"""Saves a training on rank 0 while it goes on; what went wrong all workers hear."""

from collections.abc import Callable
from types import TracebackType

from cli.errors import Failure
from cluster.collectives import first_problem
from pipelines.storage.folder import Folder
from vgg.weights.checkpoint import Checkpoint, DamagedCheckpoint
from vgg.weights.lease import Lease
from vgg.weights.state import Copies
from vgg.weights.writer import CheckpointWriter

WRITE_ERRORS = (OSError, Failure, DamagedCheckpoint)
"""Of a checkpoint's storage: no restart of the workers would mend them."""


class Saver:
    """The checkpoints of one attempt; a context manager."""

    def __init__(self, folder: Folder, lease: Lease | None, saved_step: int | None) -> None:
        """`lease`: rank 0's, which writes for all. `saved_step`: of the checkpoint that was resumed from."""
        self.folder, self.saved_step = folder, saved_step
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
                problem = f"a checkpoint could not be written: {error}"
        return first_problem(problem)

    def finish(self) -> str | None:
        """Wait until all is on storage; on rank 0, what went wrong."""
        try:
            if self._writer is not None:
                self._writer.wait()
        except WRITE_ERRORS as error:
            return f"the last checkpoint could not be written: {error}"
        return None

    def kept(self) -> str:
        """What is on storage, for a training that ends."""
        if (problem := self.finish()) is not None:
            return problem
        if self.saved_step is None:
            return "no checkpoint had been saved before it"
        return f"the checkpoint of step {self.saved_step} is kept in {self.folder.uri}"
