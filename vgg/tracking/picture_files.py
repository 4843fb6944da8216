"""The pictures of a training in the run's folder, whether it is tracked or not."""

from collections.abc import Callable
from concurrent import futures
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from pipelines.storage.folder import Folder
from vgg.pictures.drawing import DrawingProcess
from vgg.tracking.box_pictures import BoxPictures
from vgg.tracking.messages import print_message
from vgg.tracking.tracker import Tracker
from vgg.tracking.training_pictures import TrainingPictures
from vgg.training.events import Event, Finished, FirstBatch, RunContext, Validated

DRAWING_SECONDS = 120.0
"""How long the end of a training waits for its pictures."""


class PictureFiles:
    """An observer that leaves the pictures in the run's folder, and in MLflow if there is a tracker.

    Without one they are drawn once, when the training ends: nobody looks at them before.
    """

    def __init__(self, context: RunContext, tracker: Tracker | None) -> None:
        self._files = Files(Folder(context.job.out, "--out").underway(), tracker)
        boxed = context.job.plan.architecture.boxes is not None
        self._pictures = (BoxPictures if boxed else TrainingPictures)(context, self._files)
        self._watched = tracker is not None

    def handle(self, event: Event) -> None:
        """Draw what the event shows."""
        match event:
            case FirstBatch(batch):
                self._pictures.inputs(batch)
            case Validated():
                self._pictures.validated(event)
                if self._watched and not self._files.busy:
                    self._pictures.draw_if_due()
            case Finished():
                if event.is_last:  # else there is no time, and who goes on draws them
                    self._pictures.draw()
                self._files.close()


class Files:
    """Keeps each picture in a folder, and hands it to a tracker."""

    def __init__(self, folder: Folder, tracker: Tracker | None) -> None:
        self._folder, self._tracker = folder, tracker
        self._process = DrawingProcess()
        self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix="pictures")
        self._drawings: list[futures.Future[None]] = []

    @property
    def busy(self) -> bool:
        """Whether a picture is still to be drawn."""
        return not all(drawing.done() for drawing in self._drawings)

    def has(self, path: str) -> bool:
        """Whether the folder has it."""
        return self._folder.exists(path)

    def figure(self, path: str, make: Callable[..., Figure], *arguments: Any) -> None:
        """Have the figure drawn and kept; one that cannot be is told."""
        drawing = self._thread.submit(self._keep, path, make, arguments)
        drawing.add_done_callback(partial(_report, path))
        self._drawings = [*(each for each in self._drawings if not each.done()), drawing]

    def _keep(self, path: str, make: Callable[..., Figure], arguments: tuple[Any, ...]) -> None:
        png = self._process.png(make, *arguments)
        self._folder.write(path, png)
        if self._tracker is not None:
            self._tracker.file(path, png)

    def close(self) -> None:
        """Wait for what is still drawn, and give up after a while."""
        futures.wait(self._drawings, DRAWING_SECONDS)
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._process.close()
        self._thread.shutdown()


def _report(path: str, drawing: futures.Future[None]) -> None:
    problem = "it took too long" if drawing.cancelled() else drawing.exception()
    if problem is not None:
        print_message(f"a picture is missing: {path} ({problem})")
