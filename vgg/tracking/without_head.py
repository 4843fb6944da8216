"""The end of a training's command when the head of its cluster is gone."""

import os
import sys

from cli.command import print_error
from vgg.tracking.cut_off import end_run
from vgg.training.job import Job
from vgg.training.kept import kept


def end_without_head(job: Job, lost: str) -> None:
    """Say what is kept, end the run in MLflow, and end this process at once: nothing of Ray returns any more,
    and an ordinary end would wait for that."""
    print_error(f"{lost}; {kept(job.out)}", 1)
    if job.tracking_uri is not None:
        end_run(job.tracking_uri, job.attempt, "FAILED")
    sys.stdout.flush()
    os._exit(1)
