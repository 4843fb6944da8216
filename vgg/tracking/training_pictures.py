"""The pictures of a training: inputs, curves, first-layer filters, predictions, confusion matrix.

Shapes: B images, H and W sides of the crop in pixels, C = 3 (RGB), K classes, O output and I input channels.
"""

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from matplotlib.figure import Figure

from pipelines.loading.batch import Batch, to_input
from pipelines.loading.loaders import EvalLoader, with_box
from vgg.pictures.confusion import confusion_figure
from vgg.pictures.curves import training_curves
from vgg.pictures.images import filter_montage, input_montage, prediction_montage
from vgg.training.events import RunContext, Validated
from vgg.training.validation import ValidationScores

PICTURE_SECONDS = 30.0
"""Pictures are drawn at most this often, and once at the end: they take cores from a training on CPUs."""
SHOWN_IMAGES = 24  # of a montage


class FigureSink(Protocol):
    """Where pictures go: a tracker, say."""

    def figure(self, path: str, make: Callable[[], Figure]) -> None:
        """Keep the figure that `make` draws, on whatever thread, under this path."""


class TrainingPictures:
    """What is drawn is copied before: a tracker draws on a thread of its own."""

    def __init__(self, context: RunContext, tracker: FigureSink) -> None:
        self._context, self._tracker = context, tracker
        self._class_names = context.job.plan.manifest.class_names
        self._shown = _validation_images(context)
        self._latest: Validated | None = None
        """The last validation that is not drawn yet."""
        self._drawn_at = time.monotonic()

    def inputs(self, batch: Batch) -> None:
        """Show the first images of a batch as the net sees them, the training mean added back."""
        rows = slice(0, SHOWN_IMAGES)
        mean_C = np.asarray(self._context.job.plan.mean_rgb)
        offset_BC = batch.offset_BC[rows].cpu().numpy() + mean_C
        pixels_BHWC = batch.images_BHWC[rows].cpu().numpy() + offset_BC[:, None, None, :]
        labels = [self._class_names[label] for label in batch.labels_B[rows].tolist()]
        self._tracker.figure("pictures/inputs.png", lambda: input_montage(pixels_BHWC, labels))

    def validated(self, event: Validated) -> None:
        """Draw this validation, unless others were drawn just before."""
        self._latest = event
        if time.monotonic() - self._drawn_at >= PICTURE_SECONDS:
            self.draw()

    def draw(self) -> None:
        """Draw the last validation, if it is not drawn yet."""
        if self._latest is None:
            return
        event, self._latest, self._drawn_at = self._latest, None, time.monotonic()
        figure = self._tracker.figure
        first_layer = self._context.net.get_parameter("conv1_1.weight")
        weights_OIHW = first_layer.detach().float().cpu().numpy().copy()
        figure("pictures/curves.png", lambda: training_curves(event.losses, event.validations))
        figure("pictures/filters.png", lambda: filter_montage(weights_OIHW))
        self._draw_answers(event)

    def _draw_answers(self, event: Validated) -> None:
        """What the net answers for validation images."""
        assert isinstance(event.scores, ValidationScores)
        names, figure = self._class_names, self._tracker.figure
        confidence_B, predicted_B = self._outputs().softmax(1).max(1)
        pixels_BHWC = self._shown.images_BHWC.cpu().numpy()
        true = [names[label] for label in self._shown.labels_B.tolist()]
        predicted = [names[label] for label in predicted_B.tolist()]
        counts_KK = event.scores.confusion_KK.numpy()
        figure("pictures/confusion.png", lambda: confusion_figure(counts_KK, names))
        figure(
            "pictures/predictions.png",
            lambda: prediction_montage(pixels_BHWC, true, predicted, confidence_B.tolist()),
        )

    @torch.no_grad()
    def _outputs(self) -> torch.Tensor:
        """The net's outputs for the shown images, [B, K] float32 on the CPU."""
        with self._context.precision.autocast():
            outputs_BK = self._context.net(to_input(self._shown)).flatten(1)
        return outputs_BK.float().cpu()


def _validation_images(context: RunContext) -> Batch:
    """The validation images of the montage, spread over the split; of a box net, those with a box."""
    recipe, worker = context.job.plan.recipe, context.worker
    boxes_N4 = None if recipe.model.boxes is None else context.val_set.own_boxes().targets_N4
    images_N = np.arange(len(context.val_set)) if boxes_N4 is None else with_box(boxes_N4)
    count = min(SHOWN_IMAGES, len(images_N))
    loader = EvalLoader(
        context.val_set,
        context.job.plan.manifest,
        images_N[np.linspace(0, len(images_N) - 1, count).astype(np.int64)],
        side=recipe.model.side,
        scale=recipe.input.test_scale,
        batch=count,
        device=worker.device,
        threads=worker.threads,
        placement=context.job.layout.decode,
        boxes_N4=boxes_N4,
    )
    with loader:
        return next(loader)
