"""The observers of a training, in the order in which they are told."""

from vgg.tracking.box_pictures import BoxPictureFiles
from vgg.tracking.result_file import ResultFile
from vgg.tracking.run_log import RunLog
from vgg.tracking.training_run import TrainingRun
from vgg.training.events import Observer, RunContext


def training_observers(context: RunContext) -> list[Observer]:
    """Log, pictures of boxes, result.json and, where it is tracked, MLflow: last, as its end waits for the
    server."""
    log: list[Observer] = [RunLog(context)]
    if context.job.plan.architecture.boxes is not None:
        log.append(BoxPictureFiles(context))
    if context.job.tracking_uri is None:
        return [*log, ResultFile(context, lambda: None)]
    run = TrainingRun(context)
    return [*log, ResultFile(context, lambda: run.url), run]
