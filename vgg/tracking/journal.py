"""What rank 0 tells of a training: progress lines, tracked points and pictures, result.json."""

import json
import tempfile
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.loading.batch import Batch
from pipelines.loading.loaders import EvalLoader
from vgg.recipes.difference import difference, flatten
from vgg.recipes.registry import RECIPES
from vgg.tracking.run_info import RunInfo, unix_time_ms
from vgg.tracking.tracker import Tracker
from vgg.training.validation import ValidationScores
from vgg.weights import checkpoint
from vgg.weights.trained_net import model_metadata

if TYPE_CHECKING:
    from vgg.training.loop import Training
from vgg.pictures.confusion import confusion_figure
from vgg.pictures.curves import training_curves
from vgg.pictures.images import filter_montage, input_montage, prediction_montage
from vgg.weights.state import weights_sha256

DELIVERY_SECONDS = 120.0
"""How long the end of a training waits for the tracking server; what is left then is kept."""


PICTURE_SECONDS = 30.0
"""Pictures are drawn at most this often, and once at the end: they take cores from a training on CPUs."""


SHOWN = 24  # images of a montage


class Journal:
    """Lives in rank 0's process. Nothing here waits for a server but `close`."""

    def __init__(self, training: "Training") -> None:
        self._of = training
        self._seconds, self._waited, self._images = 0.0, 0.0, 0
        self._undrawn: ValidationScores | None = None
        self._drawn = time.monotonic()
        job, progress = training.job, training.progress
        self.difference = difference(job.recipe, RECIPES[job.recipe_name][1])
        changes = "".join(f", {key} {new} (recipe: {old})" for key, (old, new) in self.difference.items())
        say(f"{job.recipe_name}{changes}")
        say(
            f"configuration {training.architecture.configuration}, side {training.architecture.side}, "
            f"{len(training.train_set):,} training and {len(training.val_set):,} validation images of "
            f"{training.architecture.classes} classes, {training.total_steps:,} steps on "
            f"{training.worker.world} worker(s), {training.worker.device.type}, {self._precision}"
        )
        for reason in training.passed_over:
            say(f"passed over: {reason}")
        if progress.resumed_from:
            say(f"resumed from step {progress.step:,} of {training.folder.uri}")
        self._samples = self._load_samples()
        self._tracker = None
        if job.tracking_uri is None:
            say("not tracked: give --track or set MLFLOW_TRACKING_URI")
        else:
            local = training.folder.local
            spool = (local or Path(tempfile.gettempdir())) / f"spool-{job.uid[:8]}"
            self._tracker = Tracker(spool, job.tracking_uri, self._run_info())

    def inputs(self, batch: Batch) -> None:
        """Show the first batch of this attempt."""
        if self._tracker is None:
            return
        rows = slice(0, SHOWN)
        mean_C = np.asarray(self._of.manifest.mean_rgb)
        offset_BC = batch.offset_BC[rows].cpu().numpy() + mean_C
        pixels_BHWC = batch.images_BHWC[rows].cpu().numpy() + offset_BC[:, None, None, :]
        labels = [self._of.manifest.class_names[label] for label in batch.labels_B[rows].tolist()]
        self._tracker.figure("pictures/inputs.png", lambda: input_montage(pixels_BHWC, labels))

    def window(self, losses: list[float], lr: float, seconds: float, waited: float) -> None:
        """Some steps were made: their mean losses, how long they took and how much of it data was awaited."""
        batch, progress = self._of.recipe.train.batch, self._of.progress
        self._seconds += seconds
        self._waited += waited
        self._images += len(losses) * batch
        left = (self._of.total_steps - progress.step) * seconds / len(losses)
        epoch = progress.step * batch / len(self._of.train_set)
        rate = len(losses) * batch / seconds
        say(
            f"step {progress.step:,}/{self._of.total_steps:,}  epoch {epoch:.2f}  "
            f"loss {losses[-1]:.4f}  lr {lr:g}  {rate:,.0f} images/s  data wait {waited / seconds:.0%}  "
            f"{timedelta(seconds=round(left))} left"
        )
        if self._tracker is not None:
            first = progress.step - len(losses) + 1
            for step, loss in enumerate(losses, start=first):
                self._tracker.metrics(step, {"train/loss": loss})
            points = {
                "train/lr": lr,
                "train/epoch": epoch,
                "train/images_per_s": rate,
                "train/data_wait_share": waited / seconds,
            }
            self._tracker.metrics(progress.step, points)

    def validated(self, scores: ValidationScores) -> None:
        """The validation set was scored."""
        say(
            f"validation at step {self._of.progress.step:,}: top-1 {scores.top1_accuracy:.2%}, "
            f"top-5 {scores.top5_accuracy:.2%}, loss {scores.loss:.4f} on {scores.seen:,} images"
        )
        if self._tracker is None:
            return
        points = {
            "val/loss": scores.loss,
            "val/top1_accuracy": scores.top1_accuracy,
            "val/top5_accuracy": scores.top5_accuracy,
            "val/top1_error": 100 * (1 - scores.top1_accuracy),
            "val/top5_error": 100 * (1 - scores.top5_accuracy),
            "schedule/drops": float(self._of.progress.plateau.drops),
        }
        self._tracker.metrics(self._of.progress.step, points)
        self._undrawn = scores
        if time.monotonic() - self._drawn >= PICTURE_SECONDS:
            self._draw()

    def close(self, problem: str | None) -> dict[str, Any] | None:
        """Leave result.json where the training came to its end, deliver what was told."""
        result = None
        if problem is None:
            result = self._result()
            self._of.folder.write_json("result.json", result)
        if self._tracker is not None:
            self._end_tracking(problem, result)
        return result

    def _end_tracking(self, problem: str | None, result: dict[str, Any] | None) -> None:
        assert self._tracker is not None
        best = self._of.progress.best
        if self._undrawn is not None:
            self._draw()
        if result is not None and best is not None:
            self._tracker.text("result.json", json.dumps(result))
            state = checkpoint.find(self._of.folder.uri)
            metrics = {"val/top1_accuracy": best["top1"], "val/top5_accuracy": best["top5"]}
            about = model_metadata(self._of.architecture, state.about)
            self._tracker.model(state.model, about, best["step"], metrics)
        if problem is not None:
            self._tracker.tags({"problem": problem})
        done = self._tracker.close("FINISHED" if problem is None else "FAILED", DELIVERY_SECONDS)
        if done:
            say(f"tracked at {self._tracker.sender.url}")
        else:
            say(
                "the tracking server is away; deliver the rest later with: python -m vgg.track "
                f"{self._tracker.spool.folder} --uri {self._of.job.tracking_uri}"
            )

    @property
    def _precision(self) -> str:
        return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self._of.dtype]

    def _result(self) -> dict[str, Any]:
        job, progress, worker = self._of.job, self._of.progress, self._of.worker
        return {
            "format": 1,
            "recipe": job.recipe_name,
            "difference": self.difference,
            "settings": flatten(job.recipe),
            "seed": job.seed,
            "data": {"folder": job.data, "digest": self._of.manifest.digest},
            "layout": asdict(job.layout),
            "device": _device_name(worker.device),
            "precision": self._precision,
            "steps": progress.step,
            "losses": progress.losses,
            "validations": progress.validations,
            "best": progress.best,
            "images_per_s": self._images / self._seconds if self._seconds else None,
            "data_wait_share": self._waited / self._seconds if self._seconds else None,
            "resumed_from": progress.resumed_from,
            "weights_sha256": weights_sha256(self._of.net.state_dict()),
            "tracked_at": self._tracker.sender.url if self._tracker else None,
        }

    def _run_info(self) -> RunInfo:
        job, manifest = self._of.job, self._of.manifest
        layout = {f"layout.{key}": str(value) for key, value in asdict(job.layout).items()}
        recipe = {key: str(value) for key, value in flatten(job.recipe).items()}
        about = {"seed": str(job.seed), "data": job.data, "precision": self._precision}
        changes = {key: new for key, (_, new) in self.difference.items()}
        return RunInfo(
            uid=job.uid,
            experiment=job.experiment,
            name=job.recipe_name + (" (overridden)" if changes else ""),
            tags={
                "kind": "train",
                "recipe": job.recipe_name,
                "recipe.difference": json.dumps(changes),
                "configuration": self._of.architecture.configuration,
            },
            params={**recipe, **layout, **about},
            data_name=manifest.source,
            data_digest=manifest.digest,
            data_source=job.data,
            data_context="training",
            started=unix_time_ms(),
        )

    def _load_samples(self) -> Batch:
        """The validation images of the predictions montage, spread over the split."""
        of = self._of
        count = min(SHOWN, len(of.val_set))
        loader = EvalLoader(
            of.val_set,
            of.manifest,
            np.linspace(0, len(of.val_set) - 1, count).astype(np.int64),
            side=of.recipe.model.side,
            scale=of.recipe.input.test_scale,
            batch=count,
            device=of.worker.device,
            threads=of.worker.threads,
            placement=of.job.layout.decode,
        )
        with loader:
            return next(loader)

    def _draw(self) -> None:
        assert self._tracker is not None
        assert self._undrawn is not None
        scores, self._undrawn, self._drawn = self._undrawn, None, time.monotonic()
        of, names = self._of, self._of.manifest.class_names
        share_BK = of.predict(self._samples).softmax(1).cpu()
        confidence_B, guesses_B = share_BK.max(1)
        pixels_BHWC = self._samples.images_BHWC.cpu().numpy()
        truths = [names[label] for label in self._samples.labels_B.tolist()]
        guesses = [names[guess] for guess in guesses_B.tolist()]
        weights_OIHW = of.net.get_parameter("conv1_1.weight").detach().float().cpu().numpy().copy()
        counts_KK = scores.confusion_KK.numpy()
        losses, validations = list(of.progress.losses), list(of.progress.validations)
        figure = self._tracker.figure
        figure("pictures/curves.png", lambda: training_curves(losses, validations))
        figure("pictures/filters.png", lambda: filter_montage(weights_OIHW))
        figure("pictures/confusion.png", lambda: confusion_figure(counts_KK, names))
        figure(
            "pictures/predictions.png",
            lambda: prediction_montage(pixels_BHWC, truths, guesses, confidence_B.tolist()),
        )


def say(text: str) -> None:
    """A line of the log, at once."""
    print(text, flush=True)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
