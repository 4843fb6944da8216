"""The pictures of a training: inputs, curves, predictions, confusion matrix, accuracy of each class.

Shapes: B images, H and W sides of the crop in pixels, C = 3 (RGB), K classes.
"""

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from matplotlib.figure import Figure

from pipelines.loading.batch import Batch, to_input
from pipelines.loading.loaders import EvalLoader, with_box
from vgg.pictures.confusion import class_accuracy_figure, confusion_figure
from vgg.pictures.curves import training_curves
from vgg.pictures.images import ShownPrediction, input_montage, prediction_montage
from vgg.training.events import RunContext, Validated
from vgg.training.validation import ValidationScores

PICTURE_SECONDS = 30.0
"""Pictures are drawn at most this often, and once at the end: they take cores from a training on CPUs."""
SHOWN_INPUTS = 24
SHOWN_AT_RANDOM = 12


Drawing = tuple[str, Callable[..., Figure], tuple[Any, ...]]
"""A picture's path, what draws it, and of what."""


class FigureSink(Protocol):
    """Where pictures go: a tracker, say."""

    def has(self, path: str) -> bool:
        """Whether there is such a picture, drawn by this process or by one before it."""

    def figure(self, path: str, make: Callable[..., Figure], *arguments: Any) -> None:
        """Keep the figure that `make` draws of these arguments, in another process, under this path."""


class TrainingPictures:
    """What is drawn is copied before, and pickled while the training goes on.

    What the net answers is that of the best validation: of the net that is tested and used afterwards.
    """

    answers_path = "pictures/classes.png"

    def __init__(self, context: RunContext, tracker: FigureSink) -> None:
        self._context, self._tracker, self._plan = context, tracker, context.job.plan
        self._class_names = self._plan.manifest.class_names
        boxed = context.job.plan.recipe.model.boxes is not None
        self._boxes_N4 = context.val_set.own_boxes().targets_N4 if boxed else None
        self._latest: Validated | None = None
        """The last validation that is not drawn yet."""
        self._answers: list[Drawing] = []
        """Of the best one, if they are not drawn yet."""
        self._shows_none = not tracker.has(self.answers_path)
        self._drawn_at = time.monotonic()

    def inputs(self, batch: Batch) -> None:
        """Show the first images of a batch as the net sees them, the training mean added back."""
        rows = slice(0, SHOWN_INPUTS)
        mean_C = np.asarray(self._plan.mean_rgb)
        offset_BC = batch.offset_BC[rows].cpu().numpy() + mean_C
        pixels_BHWC = batch.images_BHWC[rows].cpu().numpy() + offset_BC[:, None, None, :]
        labels = [self._class_names[label] for label in batch.labels_B[rows].tolist()]
        title = f"{self._subject}: inputs as the net sees them"
        self._tracker.figure("pictures/inputs.png", input_montage, pixels_BHWC, labels, title)

    def validated(self, event: Validated) -> None:
        """Keep this validation, and the net's answers if none was better: the net is another one at the next.

        A training that resumes without pictures shows those of its first validation until then.
        """
        self._latest = event
        if event.is_best or self._shows_none:
            self._answers, self._shows_none = self._answers_of(event), False

    def draw_if_due(self) -> None:
        """Draw what was kept, unless another validation was drawn just before."""
        if time.monotonic() - self._drawn_at >= PICTURE_SECONDS:
            self.draw()

    def draw(self) -> None:
        """Draw what was kept and is not drawn yet."""
        if self._latest is None:
            return
        event, self._latest, self._drawn_at = self._latest, None, time.monotonic()
        curves = event.losses, event.validations, self._title_of_curves(event)
        self._tracker.figure("pictures/curves.png", training_curves, *curves)
        answers, self._answers = self._answers, []
        for path, make, arguments in answers:
            self._tracker.figure(path, make, *arguments)

    def _answers_of(self, event: Validated) -> list[Drawing]:
        """What the net answers for validation images."""
        assert isinstance(event.scores, ValidationScores)
        counts_KK, title = event.scores.confusion_KK.numpy(), self._title(event)
        worst = self._images(event.scores.worst) if event.scores.worst else None
        shown = self._predictions(worst), self._predictions(self._at_random)
        of_classes = counts_KK, self._class_names, title
        return [
            (self.answers_path, class_accuracy_figure, of_classes),
            ("pictures/confusion.png", confusion_figure, of_classes),
            ("pictures/predictions.png", prediction_montage, (*shown, title)),
        ]

    @property
    def _subject(self) -> str:
        return f"{self._plan.architecture.configuration} on {self._plan.manifest.source}"

    def _title(self, event: Validated) -> str:
        """Net, data, protocol and result."""
        last = event.validations[-1]
        return (
            f"{self._subject}, step {event.step:,}: {self._protocol}, "
            f"top-1 error {100 * (1 - last['top1']):.1f} % of {last['seen']:,} images"
        )

    def _title_of_curves(self, event: Validated) -> str:
        return (
            f"{self._subject}, {event.step:,} steps: {self._protocol}, "
            f"best top-1 error {100 * (1 - event.best['top1']):.1f} % of {event.best['seen']:,} images"
        )

    @property
    def _protocol(self) -> str:
        return f"single crop, Q = {self._plan.recipe.input.test_scale}"

    @cached_property
    def _at_random(self) -> Batch:
        """Validation images that every picture shows; of a box net, those with a box."""
        images_N = np.arange(len(self._context.val_set))
        if self._boxes_N4 is not None:
            images_N = with_box(self._boxes_N4)
        random = np.random.default_rng(self._plan.seed)
        shown = random.choice(images_N, min(SHOWN_AT_RANDOM, len(images_N)), replace=False)
        return self._images(sorted(shown.tolist()))

    def _predictions(self, batch: Batch | None) -> list[ShownPrediction]:
        """What the net, as it is, takes these validation images for."""
        if batch is None:
            return []
        confidence_B, predicted_B = self._outputs(batch).softmax(1).max(1)
        rows = zip(
            batch.images_BHWC.cpu().numpy(),
            batch.labels_B.tolist(),
            predicted_B.tolist(),
            confidence_B.tolist(),
            strict=True,
        )
        names = self._class_names
        return [
            ShownPrediction(pixels_HWC.copy(), names[true], names[guess], confidence)
            for pixels_HWC, true, guess, confidence in rows
        ]

    @torch.no_grad()
    def _outputs(self, batch: Batch) -> torch.Tensor:
        """The net's outputs for these images, [B, K] float32 on the CPU."""
        with self._context.precision.autocast():
            outputs_BK = self._context.net(to_input(batch)).flatten(1)
        return outputs_BK.float().cpu()

    def _images(self, images: Sequence[int]) -> Batch:
        """The centre crops of some validation images."""
        recipe, worker = self._plan.recipe, self._context.worker
        loader = EvalLoader(
            self._context.val_set,
            self._plan.manifest,
            np.asarray(images, np.int64),
            side=recipe.model.side,
            scale=recipe.input.test_scale,
            batch=len(images),
            device=worker.device,
            threads=worker.threads,
            placement=self._context.job.layout.decode,
            boxes_N4=self._boxes_N4,
        )
        with loader:
            return next(loader)
