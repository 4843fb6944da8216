"""Writes checkpoints in the background, so that the training does not wait."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from pipelines.storage.folder import Folder
from vgg.weights.checkpoint import Checkpoint
from vgg.weights.retention import go_back, write


class CheckpointWriter:
    """Writes checkpoints on its own thread, one at a time. The next call raises the error of a failed write."""

    def __init__(self, run: Folder, still_mine: Callable[[], None] = lambda: None) -> None:
        """`still_mine`: see `vgg.weights.retention.write`."""
        self._run, self._still_mine = run.underway(), still_mine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def submit(self, checkpoint: Checkpoint, *, best: bool, epoch: int | None = None) -> None:
        """Start writing, once the previous write is done."""
        self.wait()
        self._writing = self._thread.submit(
            write, self._run, checkpoint, best=best, epoch=epoch, still_mine=self._still_mine
        )

    def wait(self) -> None:
        """Wait until all submitted checkpoints are on storage."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def go_back(self, step: int) -> Checkpoint | str:
        """See `vgg.weights.retention.go_back`; of all that was submitted."""
        self.wait()
        return go_back(self._run, step, self._still_mine)

    def close(self) -> None:
        """Wait for the last write and end the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
