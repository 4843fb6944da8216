"""A command whose workers do not end when asked: `python -m tests.cluster.stubborn MARKER GRACE_SECONDS`."""

import sys
import time
from pathlib import Path

from cluster import trainer
from cluster.layout import Layout, Worker
from cluster.stopping import Interruption


def stubborn(worker: Worker, job: str) -> None:
    """At work, and for long."""
    worker.stop.is_answered = True
    Path(job).touch()
    time.sleep(300)


if __name__ == "__main__":
    trainer.run(stubborn, sys.argv[1], Layout(workers=1), interruption=Interruption(float(sys.argv[2])))
