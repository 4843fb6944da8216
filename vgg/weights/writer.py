"""Writes checkpoints without holding the training up."""

from concurrent.futures import Future, ThreadPoolExecutor

from pipelines.storage.folder import Folder
from vgg.weights.checkpoint import Checkpoint, write


class CheckpointWriter:
    """Writes checkpoints on a thread of its own, one at a time; an error surfaces at the next call."""

    def __init__(self, run: Folder) -> None:
        self._run = run
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def submit(self, state: Checkpoint, *, best: bool) -> None:
        """Start writing; waits for the one before, so that at most one copy of the state is held."""
        self.wait()
        self._writing = self._thread.submit(write, self._run, state, best=best)

    def wait(self) -> None:
        """Return when all that was submitted is on storage."""
        if self._writing is not None:
            self._writing.result()

    def close(self) -> None:
        """Wait, then end the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
