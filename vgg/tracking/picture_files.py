"""The pictures of a training in the run's folder, whether it is tracked or not."""

from collections.abc import Callable
from concurrent import futures

from matplotlib.figure import Figure

from pipelines.storage.folder import Folder
from vgg.tracking.box_pictures import BoxPictures
from vgg.tracking.messages import print_message
from vgg.tracking.tracker import PICTURE_DPI, Tracker
from vgg.tracking.training_pictures import TrainingPictures
from vgg.training.events import Event, Finished, FirstBatch, RunContext, Validated


class PictureFiles:
    """An observer that leaves the pictures in the run's folder, and in MLflow if there is a tracker.

    Without one they are drawn once, when the training ends: nobody looks at them before.
    """

    def __init__(self, context: RunContext, tracker: Tracker | None) -> None:
        self._files = _Files(Folder(context.job.out, "--out").underway(), tracker)
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
                if self._watched:
                    self._pictures.draw_if_due()
            case Finished():
                if not event.was_stopped:  # there is no time
                    self._pictures.draw()
                self._files.close()


class _Files:
    """Keeps each figure in a folder, and hands it to a tracker."""

    def __init__(self, folder: Folder, tracker: Tracker | None) -> None:
        self._folder, self._tracker = folder, tracker
        self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix="pictures")
        self._drawings: list[futures.Future[Figure]] = []

    def figure(self, path: str, make: Callable[[], Figure]) -> None:
        """Draw and keep the figure on another thread: a tracker's, if there is one."""
        if self._tracker is not None:
            self._tracker.figure(path, lambda: self._kept(path, make()))
        else:
            self._drawings.append(self._thread.submit(lambda: self._kept(path, make())))

    def close(self) -> None:
        """Wait for the drawings of this object's own thread; one that failed is told."""
        self._thread.shutdown()
        for drawing in self._drawings:
            if (error := drawing.exception()) is not None:
                print_message(f"a picture is missing: {error!r}")

    def _kept(self, path: str, figure: Figure) -> Figure:
        with self._folder.writing(path) as file:
            figure.savefig(file, format="png", dpi=PICTURE_DPI)
        return figure
