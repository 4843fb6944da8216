"""A study's trainings beside each other: their learning curves on one sheet, their answers on another.

Shapes: H and W sides of an image in pixels, C = 3 (RGB).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vgg.pictures.curves import labels_at_ends, on_log_axis
from vgg.pictures.style import BLUE, GREEN, ORANGE, RED, as_text, short_name

COLOURS = (BLUE, ORANGE, GREEN, RED, "#7755aa", "#666666", "#22aaaa", "#aa7722", "#cc66aa", "#779922")
LEAST_ERROR = 0.05
"""Percent; a logarithmic axis has no zero."""


@dataclass(frozen=True)
class History:
    """One training's validations, and what the training itself showed between them."""

    name: str
    """The same for every seed."""
    images: Sequence[float]
    """Training images seen so far, at each validation."""
    train_errors: Sequence[float | None]
    """Top-1, percent; of the augmented crops since the validation before. None where it was not counted."""
    val_errors: Sequence[float]
    train_losses: Sequence[float]
    """In nats."""
    val_losses: Sequence[float]


PANELS: tuple[tuple[str, Callable[[History], Sequence[float | None]]], ...] = (
    ("top-1 error in training, %", lambda each: each.train_errors),
    ("top-1 error in validation, %", lambda each: each.val_errors),
    ("loss in training, nats", lambda each: each.train_losses),
    ("loss in validation, nats", lambda each: each.val_losses),
)


def curves_sheet(histories: Sequence[History]) -> Figure:
    """Error and loss of training and validation, a line a seed in its training's colour, names at the ends."""
    names = list(dict.fromkeys(each.name for each in histories))
    figure = Figure(figsize=(13, 8), layout="constrained")
    for axes, (title, values_of) in zip(figure.subplots(2, 2, sharex=True).flat, PANELS, strict=True):
        ends: dict[str, list[float]] = {name: [] for name in names}
        for each in histories:
            known = [
                (x, max(y, LEAST_ERROR))
                for x, y in zip(each.images, values_of(each), strict=True)
                if y is not None and math.isfinite(y)
            ]
            if known:
                colour = COLOURS[names.index(each.name) % len(COLOURS)]
                axes.plot(*zip(*known, strict=True), color=colour, marker="o", markersize=2, linewidth=1)
                ends[each.name].append(known[-1][1])
        _name_ends(axes, ends)
        axes.set_title(title, fontsize=10)
    for axes in figure.axes[2:]:
        axes.set_xlabel("training images seen")
        axes.xaxis.set_major_formatter("{x:,.0f}")
    return figure


def _name_ends(axes: Axes, ends: Mapping[str, Sequence[float]]) -> None:
    """Each training's name, with the mean over its seeds, beside the last of its points."""
    on_log_axis(axes)
    labels = {}
    for place, (name, values) in enumerate(ends.items()):
        if values:
            mean = float(np.mean(values))
            labels[f"{name}  {mean:.3g}"] = mean, COLOURS[place % len(COLOURS)]
    if labels:
        labels_at_ends(axes, labels)


@dataclass(frozen=True)
class Answer:
    """The class that a net scored best for an image, with its probability."""

    name: str
    probability: float
    right: bool


def answers_sheet(
    images_HWC: Sequence[np.ndarray],
    truths: Sequence[str],
    answers: Mapping[str, Sequence[Answer]],
    title: str,
) -> Figure:
    """A row for each image (uint8): the picture, its class, and what each net took it for, right ones green.

    `answers`: net -> one for each image.
    """
    rows, wide = len(images_HWC), 1.9
    figure = Figure(figsize=(1.6 + wide * (1 + len(answers)), 0.9 * rows + 0.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(as_text(title), fontsize=11, pad=22)
    for row, (image_HWC, truth) in enumerate(zip(images_HWC, truths, strict=True)):
        high, broad = (side / max(image_HWC.shape[:2]) for side in image_HWC.shape[:2])
        left, top = (1 - broad) / 2, row + (1 - high) / 2
        axes.imshow(image_HWC, extent=(left, left + broad, top + high, top), interpolation="nearest")
        axes.text(1.1, row + 0.5, short_name(truth, 18), va="center", fontsize=9)
        for column, given in enumerate(answers.values()):
            answer, x = given[row], 1 + wide * (column + 1)
            colour = GREEN if answer.right else RED
            axes.add_patch(Rectangle((x, row + 0.06), wide - 0.08, 0.88, color=colour, alpha=0.16, linewidth=0))
            text = f"{short_name(answer.name, 18)}\n{answer.probability:.0%}"
            axes.text(x + 0.08, row + 0.5, text, va="center", fontsize=8, color=colour)
    for column, name in enumerate(["true class", *answers]):
        axes.text(1.1 + wide * column, -0.12, as_text(name), fontsize=9, weight="bold")
    axes.set(xlim=(0, 1 + wide * (1 + len(answers))), ylim=(rows, 0), aspect="equal")
    axes.axis("off")
    return figure
