"""The observers of a training, in the order in which they are told."""

from vgg.tracking.exported import ExportedMetrics
from vgg.tracking.picture_files import PictureFiles
from vgg.tracking.result_file import ResultFile
from vgg.tracking.run_log import RunLog
from vgg.tracking.training_run import TrainingRun
from vgg.training.events import Observer, RunContext


def training_observers(context: RunContext) -> list[Observer]:
    """Log, result.json, pictures, the cluster's metrics and, where it is tracked, MLflow: last, as its end
    waits for the server."""
    run = None if context.job.tracking_uri is None else TrainingRun(context)
    observers: list[Observer] = [
        RunLog(context),
        ResultFile(context, lambda: None if run is None else run.url),
        PictureFiles(context, None if run is None else run.tracker),
    ]
    if context.worker.export is not None:
        observers.append(ExportedMetrics(context, None if run is None else lambda: run.is_behind))
    return observers if run is None else [*observers, run]
