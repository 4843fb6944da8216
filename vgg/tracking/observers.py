"""The observers of a training, in the order in which they are told."""

from vgg.tracking.picture_files import PictureFiles
from vgg.tracking.result_file import ResultFile
from vgg.tracking.run_log import RunLog
from vgg.tracking.training_run import TrainingRun
from vgg.training.events import Observer, RunContext


def training_observers(context: RunContext) -> list[Observer]:
    """Log, result.json, pictures and, where it is tracked, MLflow: last, as its end waits for the server."""
    if context.job.tracking_uri is None:
        return [RunLog(context), ResultFile(context, lambda: None), PictureFiles(context, None)]
    run = TrainingRun(context)
    return [RunLog(context), ResultFile(context, lambda: run.url), PictureFiles(context, run.tracker), run]
