"""A training as a run of MLflow: its parameters, curves, result and best net."""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cli.errors import Failure, UserError
from pipelines.storage.folder import Folder
from vgg.recipes.difference import flatten
from vgg.tracking import log_file
from vgg.tracking.cut_off import ATTEMPT_TAG
from vgg.tracking.run_info import RunInfo, unix_time_ms
from vgg.tracking.run_log import print_line
from vgg.tracking.software import software_of_run
from vgg.tracking.tracker import Status, Tracker
from vgg.training import profiling
from vgg.training.events import Event, Finished, LeftOut, RunContext, StepsDone, Validated
from vgg.training.rank_times import curves
from vgg.weights import retention
from vgg.weights.checkpoint import DamagedCheckpoint
from vgg.weights.trained_net import model_metadata

DELIVERY_SECONDS = 120.0
"""How long the end of a training waits for the tracking server; what is left then is kept in the spool."""
STOPPED_DELIVERY_SECONDS = 5.0
"""The same of one that was asked to end, within its grace."""


class TrainingRun:
    """Tracks a training; only its end waits for the server."""

    def __init__(self, context: RunContext) -> None:
        assert context.job.tracking_uri is not None
        self._context, self._plan = context, context.job.plan
        local = Folder(context.job.out).local
        spool = (local or Path(tempfile.gettempdir())) / f"spool-{context.job.uid[:8]}"
        self.tracker = Tracker(spool, context.job.tracking_uri, run_info(context))

    @property
    def url(self) -> str | None:
        """Address of the run's page, once the server has answered."""
        return self.tracker.sender.url

    @property
    def is_behind(self) -> bool:
        """Whether records wait for a server that is away."""
        return self.tracker.sender.problem is not None

    def handle(self, event: Event) -> None:
        """Track what the event says."""
        match event:
            case StepsDone():
                self._track_steps(event)
            case LeftOut():
                self.tracker.tags({"left_out": event.said})
            case Validated():
                self._track_validation(event)
            case Finished():
                self._track_end(event)

    def _track_steps(self, event: StepsDone) -> None:
        steps = len(event.losses)
        for step, loss in enumerate(event.losses, start=event.step - steps + 1):
            if math.isfinite(loss):  # else it was left out
                self.tracker.metrics(step, {"train/loss": loss})
        points = {
            "train/lr": event.lr,
            "train/gradient_norm": event.gradient_norm,
            "train/epoch": self._plan.epochs(event.step),
            "train/images_per_s": steps * self._plan.recipe.train.batch / event.seconds,
            "train/data_wait_share": event.data_wait_seconds / event.seconds,
            **curves(event.times),
        }
        self.tracker.metrics(event.step, {key: value for key, value in points.items() if math.isfinite(value)})

    def _track_validation(self, event: Validated) -> None:
        points = {**event.scores.metrics(), "schedule/drops": float(event.drops)}
        if (train_top1 := event.validations[-1]["train_top1"]) is not None:
            points["train/located" if self._plan.architecture.boxes else "train/top1_accuracy"] = train_top1
        if not self._plan.architecture.boxes:
            points["best/top1_error"] = lowest_error(event.validations)
        self.tracker.metrics(event.step, points)

    def _track_end(self, event: Finished) -> None:
        tracker, problem = self.tracker, event.problem
        try:
            self._track_folder(Folder(self._context.job.out, "--out").underway(), event.result)
        except (Failure, UserError, DamagedCheckpoint) as error:
            problem = problem or f"the run's files are not all tracked: {error}"
            print_line(problem)
        if problem is not None:
            tracker.tags({"problem": problem})
        seconds = STOPPED_DELIVERY_SECONDS if event.was_stopped else DELIVERY_SECONDS
        if tracker.close(_status(event), seconds):
            print_line(f"tracked at {self.url}")
        else:
            print_line(tracker.undelivered)

    def _track_folder(self, out: Folder, result: dict[str, Any] | None) -> None:
        """What a training leaves in its folder. Failure where the folder's store is away."""
        self._track_files(out)
        if result is None:
            return
        self.tracker.text("result.json", json.dumps({**result, **software_of_run(out), "tracked_at": self.url}))
        if (best := result["best"]) is not None:
            saved = retention.open_checkpoint(out.uri, out.flag, underway=True)
            of_best = "val/located" if self._plan.architecture.boxes else "val/top1_accuracy"
            scores = {of_best: best["top1"], "val/top5_accuracy": best["top5"]}
            metrics = {key: value for key, value in scores.items() if value is not None}
            metadata = model_metadata(self._plan.architecture, saved.metadata)
            self.tracker.model(saved.model, metadata, best["step"], metrics)

    def _track_files(self, out: Folder) -> None:
        """The log so far and, where one was asked for, the profile."""
        paths = [log_file.NAME]
        if self._plan.recipe.train.profile is not None:
            paths += [f"{profiling.FOLDER}/{name}" for name in out.names(profiling.FOLDER)]
        for path in paths:
            with suppress(FileNotFoundError):  # it could not be written, which was told
                self.tracker.file(path, out.read(path))


def lowest_error(validations: Sequence[Mapping[str, Any]]) -> float:
    """Top-1 error so far of the best checkpoint, percent: a table of runs shows a curve's last point alone."""
    return round(100 * (1 - max(validation["top1"] for validation in validations)), 3)


def _status(end: Finished) -> Status:
    if end.was_stopped:
        return "KILLED"
    return "FINISHED" if end.problem is None else "FAILED"


def run_info(context: RunContext) -> RunInfo:
    """What the run of this training is called and tagged with, and its parameters."""
    job, plan = context.job, context.job.plan
    layout = {f"layout.{key}": str(value) for key, value in asdict(job.layout).items()}
    recipe = {key: str(value) for key, value in flatten(plan.recipe).items()}
    rest = {"seed": str(plan.seed), "data": plan.data, "precision": context.precision.name}
    made_with = software_of_run(Folder(job.out))
    versions = {f"software.{name}": version for name, version in made_with["software"].items()}
    changes = {key: new for key, (_, new) in plan.difference.items()}
    return RunInfo(
        uid=job.uid,
        experiment=job.experiment,
        name=f"{plan.architecture.configuration} {plan.recipe_name}{' (overridden)' if changes else ''}",
        tags={
            "kind": "train",
            "recipe": plan.recipe_name,
            "recipe.difference": json.dumps(changes),
            "configuration": plan.architecture.configuration,
            "data": plan.manifest.source,
            ATTEMPT_TAG: job.attempt,
        },
        params={**recipe, **layout, **rest, **versions},
        data_name=plan.manifest.source,
        data_digest=plan.manifest.digest,
        data_source=plan.data,
        data_context="training",
        started=unix_time_ms(),
    )
