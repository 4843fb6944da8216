"""result.json of a training's folder."""

from collections.abc import Callable

from pipelines.storage.folder import Folder
from vgg.tracking.software import software_of_run
from vgg.training.events import Event, Finished, RunContext


class ResultFile:
    """Writes result.json when a training has come to its end."""

    def __init__(self, context: RunContext, tracked_at: Callable[[], str | None]) -> None:
        """`tracked_at`: address of the run in MLflow, as far as it is known by then."""
        self._folder, self._tracked_at = Folder(context.job.out, "--out").underway(), tracked_at

    def handle(self, event: Event) -> None:
        """Write the result, if there is one."""
        match event:
            case Finished(result) if result is not None:
                made_with = software_of_run(self._folder)
                self._folder.write_json(
                    "result.json", {**result, **made_with, "tracked_at": self._tracked_at()}
                )
