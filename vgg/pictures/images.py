"""Montages of filters, inputs and predictions. Drawn without pyplot, so any thread may draw.

Shapes: B images, H and W sides in pixels, C = 3 (RGB), O output and I input channels.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from vgg.pictures.style import BLUE, GREEN, RED, short_name


def filter_montage(weights_OIHW: np.ndarray) -> Figure:
    """First-layer filters as colour tiles, each scaled to its own range."""
    low = weights_OIHW.min(axis=(1, 2, 3), keepdims=True)
    high = weights_OIHW.max(axis=(1, 2, 3), keepdims=True)
    tiles = ((weights_OIHW - low) / np.maximum(high - low, 1e-12)).transpose(0, 2, 3, 1)
    return _montage(list(tiles), [""] * len(tiles), ["black"] * len(tiles), "First-layer filters", 0.7)


def input_montage(pixels_BHWC: np.ndarray, labels: Sequence[str]) -> Figure:
    """Training crops as the net sees them, with the training mean added back; values from 0 to 255."""
    shown = np.clip(pixels_BHWC / 255, 0, 1)
    captions = [short_name(label) for label in labels]
    return _montage(list(shown), captions, ["black"] * len(labels), "Inputs as the net sees them", 1.4)


def prediction_montage(
    pixels_BHWC: np.ndarray, true: Sequence[str], predicted: Sequence[str], confidence: Sequence[float]
) -> Figure:
    """Validation crops with the predicted class: in green if correct, else in red with the true class.

    `confidence`: probability of each predicted class.
    """
    titles, colours = [], []
    for truth, guess, probability in zip(true, predicted, confidence, strict=True):
        right = truth == guess
        truth_note = "" if right else f", is {short_name(truth, 12)}"
        titles.append(f"{short_name(guess)}\n{probability:.0%}{truth_note}")
        colours.append(GREEN if right else RED)
    return _montage(list(np.clip(pixels_BHWC / 255, 0, 1)), titles, colours, "Predictions", 1.4)


def ranked_predictions(images_HWC: Sequence[np.ndarray], best: Sequence[Sequence[tuple[str, float]]]) -> Figure:
    """Images (uint8), each beside a bar chart of its most probable classes: (name, probability)."""
    figure = Figure(figsize=(9, 2.6 * len(images_HWC)), layout="constrained")
    grid = figure.subplots(len(images_HWC), 2, squeeze=False)
    for (picture, bars), image_HWC, classes in zip(grid, images_HWC, best, strict=True):
        picture.imshow(image_HWC)
        picture.axis("off")
        places = range(len(classes))
        bars.barh(places, [probability for _, probability in classes], color=BLUE)
        bars.set_yticks(places, [short_name(name, 30) for name, _ in classes])
        bars.invert_yaxis()
        bars.set_xlim(0, 1)
        bars.xaxis.set_major_formatter(PercentFormatter(1))
        bars.spines[["top", "right"]].set_visible(False)
    return figure


def _montage(
    images: Sequence[np.ndarray], titles: Sequence[str], colours: Sequence[str], title: str, inches: float
) -> Figure:
    rows = max(1, round(math.sqrt(len(images) / 1.6)))
    columns = math.ceil(len(images) / rows)
    text = 0.45 if any(titles) else 0.0
    figure = Figure(figsize=(columns * inches, rows * (inches + text) + 0.4), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, caption, colour in zip(grid.flat, images, titles, colours, strict=False):
        axes.imshow(image, interpolation="nearest")
        if caption:
            axes.set_title(caption, color=colour, fontsize=8)
    return figure
