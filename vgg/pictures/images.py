"""Montages of inputs and predictions. Drawn without pyplot, so any thread may draw.

Shapes: B images, H and W sides in pixels, C = 3 (RGB).
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import PercentFormatter

from vgg.pictures.style import BLUE, GREEN, RED, as_text, short_name

CAPTIONED_INCHES = 1.4  # side of an image of a montage
CAPTION_INCHES = 0.45
LETTERS_PER_INCH = 10  # of a title


def input_montage(pixels_BHWC: np.ndarray, labels: Sequence[str], title: str = "Inputs") -> Figure:
    """Training crops as the net sees them, with the training mean added back; values from 0 to 255."""
    shown = np.clip(pixels_BHWC / 255, 0, 1)
    captions = [short_name(label) for label in labels]
    return _montage(list(shown), captions, ["black"] * len(labels), title)


@dataclass(frozen=True)
class ShownPrediction:
    """A validation crop, its class and what it was taken for."""

    pixels_HWC: np.ndarray
    """From 0 to 255."""
    true: str
    predicted: str
    confidence: float
    """Probability of the predicted class."""

    @property
    def caption(self) -> str:
        """The predicted class with its probability, and the true one where that is another."""
        truth = "" if self.true == self.predicted else f", is {short_name(self.true, 12)}"
        return f"{short_name(self.predicted)}\n{self.confidence:.0%}{truth}"


def prediction_montage(
    worst: Sequence[ShownPrediction], random: Sequence[ShownPrediction], title: str = "Predictions"
) -> Figure:
    """The worst mistakes above, images taken at random below: green if right, else red with the true class."""
    parts = [("Worst mistakes", worst), ("Taken at random", random)]
    drawn = [(name, shown) for name, shown in parts if shown]
    rows = [_grid(len(shown)) for _, shown in drawn]
    width = max((columns for _, columns in rows), default=1) * CAPTIONED_INCHES
    heights = [lines * (CAPTIONED_INCHES + CAPTION_INCHES) + 0.4 for lines, _ in rows]
    figure = Figure(figsize=(width, sum(heights) + 0.4), layout="constrained")
    figure.suptitle(_wrapped(title, width), fontsize=11)
    if not drawn:
        return figure
    below = figure.subfigures(len(drawn), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, (name, shown) in zip(below, drawn, strict=True):
        part.suptitle(name, fontsize=10)
        pictures = [np.clip(each.pixels_HWC / 255, 0, 1) for each in shown]
        colours = [GREEN if each.true == each.predicted else RED for each in shown]
        _fill(part, pictures, [each.caption for each in shown], colours)
    return figure


def ranked_predictions(
    images_HWC: Sequence[np.ndarray],
    best: Sequence[Sequence[tuple[str, float]]],
    names: Sequence[str],
    title: str,
) -> Figure:
    """Images (uint8), each below its name and beside a bar chart of its most probable classes: (name,
    probability). `title`: net and protocol."""
    figure, pairs = figure_of_pairs(len(images_HWC), (7, 2.6), title)
    for (picture, bars), image_HWC, classes, name in zip(pairs, images_HWC, best, names, strict=True):
        picture.imshow(image_HWC)
        picture.set_title(as_text(name), fontsize=9)
        picture.axis("off")
        places = range(len(classes))
        bars.barh(places, [probability for _, probability in classes], color=BLUE)
        bars.set_yticks(places, [short_name(label, 30) for label, _ in classes])
        for place, (_, probability) in enumerate(classes):
            bars.text(probability, place, f" {probability:.1%}", va="center", fontsize=8)
        bars.invert_yaxis()
        bars.set_xlim(0, 1.15)
        bars.set_xticks([0, 0.25, 0.5, 0.75, 1])
        bars.xaxis.set_major_formatter(PercentFormatter(1))
        bars.spines[["top", "right"]].set_visible(False)
    return figure


def figure_of_pairs(count: int, inches: tuple[float, float], title: str) -> tuple[Figure, list[list[Axes]]]:
    """A figure, and two axes beside each other for each of so many images, as many in a row as fit on a screen.

    `inches`: width and height of a pair.
    """
    across = 1 + (count > 3) + (count > 8)
    rows, (width, height) = math.ceil(count / across), inches
    figure = Figure(figsize=(across * width, rows * height + 0.5), layout="constrained")
    figure.suptitle(as_text(title), fontsize=11)
    axes = list(figure.subplots(rows, 2 * across, squeeze=False).flat)
    for unused in axes[2 * count :]:
        unused.axis("off")
    return figure, [axes[2 * i : 2 * i + 2] for i in range(count)]


def _montage(
    images: Sequence[np.ndarray], captions: Sequence[str], colours: Sequence[str], title: str
) -> Figure:
    rows, columns = _grid(len(images))
    height = rows * (CAPTIONED_INCHES + CAPTION_INCHES) + 0.4
    figure = Figure(figsize=(columns * CAPTIONED_INCHES, height), layout="constrained")
    figure.suptitle(_wrapped(title, columns * CAPTIONED_INCHES), fontsize=11)
    _fill(figure, images, captions, colours)
    return figure


def _wrapped(title: str, inches: float) -> str:
    """A title in as many lines as a figure of this width needs."""
    return as_text(textwrap.fill(title, max(20, int(inches * LETTERS_PER_INCH))))


def _grid(count: int) -> tuple[int, int]:
    """Rows and columns."""
    rows = max(1, round(math.sqrt(count / 1.6)))
    return rows, max(1, math.ceil(count / rows))


def _fill(
    figure: FigureBase, images: Sequence[np.ndarray], captions: Sequence[str], colours: Sequence[str]
) -> None:
    rows, columns = _grid(len(images))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, caption, colour in zip(grid.flat, images, captions, colours, strict=False):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(caption, color=colour, fontsize=8)
