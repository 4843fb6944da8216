"""The run's log: a line for everything that happens in a training, on standard output and in log.txt."""

import math
import time
from collections import deque
from dataclasses import dataclass
from datetime import timedelta

from pipelines.shards.splits import validation_split, why_few
from pipelines.storage.folder import Folder
from vgg.tracking.log_file import LogFile
from vgg.training.divergence import STUCK_STEPS, stuck
from vgg.training.events import Event, Finished, LeftOut, RunContext, Started, StepsDone, Validated
from vgg.training.rank_times import describe_slowest
from vgg.training.validation import describe

SECONDS_BETWEEN_LINES = 60.0
"""Of step lines in a log; validations have lines of their own."""
SECONDS_TO_SECOND_LINE = 10.0
"""The second line estimates the time left, which the first step, a slow one, does not."""


@dataclass(frozen=True)
class Progress:
    """How far a training is, for whoever watches it on a terminal."""

    step: int
    total: int
    loss: float
    images_per_s: float
    left_seconds: float


class RunLog:
    """Prints the progress of a training on standard output: a line a minute, unless somebody watches it."""

    def __init__(self, context: RunContext) -> None:
        self._context, self._plan = context, context.job.plan
        self._next_line_at, self._silence = -math.inf, SECONDS_TO_SECOND_LINE
        self._file = LogFile(Folder(context.job.out, "--out").underway())
        self._losses: deque[float] = deque(maxlen=STUCK_STEPS)
        self._warned = self._plan.architecture.boxes is not None  # their loss is another

    def handle(self, event: Event) -> None:
        """Print what the event says."""
        match event:
            case Started():
                self._print_start()
            case StepsDone():
                self._print_steps(event)
                self._warn_if_stuck(event)
            case LeftOut():
                self._say(f"warning: {event.said}")
            case Validated(step):
                line = describe(event.validations[-1], self._plan.manifest.class_names)
                self._say(f"validation at step {step:,}: {line}")
            case Finished(result, problem):
                self._file.add(problem or ("finished" if result else "stopped, with its step saved"))
                self._file.close()

    def _say(self, line: str) -> None:
        print_line(line)
        self._file.add(line)

    def _print_start(self) -> None:
        context, plan = self._context, self._plan
        changes = "".join(f", {key} {new} (recipe: {old})" for key, (old, new) in plan.difference.items())
        self._say(f"{plan.recipe_name}{changes}")
        self._say(
            f"configuration {plan.architecture.configuration}, side {plan.architecture.side}, "
            f"{plan.train_images:,} training and {plan.val_images:,} validation images "
            f"(split {validation_split(plan.manifest)}) of {plan.architecture.classes} classes, "
            f"{plan.total_steps:,} steps on {context.worker.world} worker(s), "
            f"{context.worker.device.type}, {context.precision.name}"
        )
        if few := why_few(plan.val_images):
            self._say(f"warning: {few}")
        if plan.lineage:
            origin = f"starts from {plan.lineage[0].recipe}, weights {plan.lineage[0].weights_sha256[:12]}"
            fresh, frozen = (", ".join(names) or "no layer" for names in (plan.fresh, plan.frozen))
            self._say(f"{origin}; fresh: {fresh}; frozen: {frozen}")
        for reason in context.skipped_checkpoints:
            self._say(f"checkpoint skipped: {reason}")
        if context.resumed_from is not None:
            self._say(f"resumed from step {context.resumed_from:,} of {context.job.out}")
        if context.job.tracking_uri is None:
            self._say("not tracked: give --track or set MLFLOW_TRACKING_URI")

    def _warn_if_stuck(self, event: StepsDone) -> None:
        self._losses.extend(filter(math.isfinite, event.losses))
        if not self._warned and (warning := stuck(list(self._losses), self._plan.architecture.classes)):
            self._warned = True
            self._say(f"warning: {warning}")

    def _print_steps(self, event: StepsDone) -> None:
        steps, plan = len(event.losses), self._plan
        left_seconds = (plan.total_steps - event.step) * event.seconds / steps
        images_per_s = steps * plan.recipe.train.batch / event.seconds
        if self._context.worker.tell is not None:
            self._context.worker.tell(
                Progress(event.step, plan.total_steps, event.losses[-1], images_per_s, left_seconds)
            )
        now = time.monotonic()
        if now < self._next_line_at and event.step < plan.total_steps:
            return
        at_most = "at most " if self._next_line_at == -math.inf else ""  # the first step is a slow one
        self._next_line_at, self._silence = now + self._silence, SECONDS_BETWEEN_LINES
        say = self._say if self._context.worker.tell is None else self._file.add
        say(
            f"step {event.step:,}/{plan.total_steps:,}  epoch {plan.epochs(event.step):.2f}  "
            f"loss {event.losses[-1]:.4f}  lr {event.lr:g}  {images_per_s:,.0f} images/s  "
            f"data wait {event.data_wait_seconds / event.seconds:.0%}  "
            f"{at_most}{timedelta(seconds=round(left_seconds))} left"
            f"{describe_slowest(event.times) if steps > 1 else ''}"
        )


def print_line(text: str) -> None:
    """A line of the log, at once."""
    print(text, flush=True)
