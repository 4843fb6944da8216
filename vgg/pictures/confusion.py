"""The confusion matrix as a figure. Drawn without pyplot, so any thread may draw.

Shapes: K classes.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from vgg.pictures.style import BLUE, as_text, short_name

MAX_BARS = 40
MAX_NUMBERED_CLASSES = 30  # cells of more are too small for a number


def confusion_figure(counts_KK: np.ndarray, names: Sequence[str], title: str = "Confusion") -> Figure:
    """Share of each true class (row) that was predicted as each class (column). `title`: of what.

    Up to 30 classes every cell shows its count; with more, a list beside the matrix names the classes with the
    lowest accuracy and the pairs that are confused most. Where cells would be smaller than a pixel they are
    max-pooled.
    """
    share_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    classes = len(names)
    few = classes <= MAX_NUMBERED_CLASSES
    figure = Figure(figsize=(8, 7) if few else (14, 9), layout="constrained")
    axes, *beside = figure.subplots(1, 1 if few else 2, squeeze=False, width_ratios=[1] if few else [3, 2])[0]
    image = axes.imshow(
        _max_pool(share_KK),
        cmap="Blues",
        norm=PowerNorm(0.5, 0, 1),  # the square root, so that rare confusions are visible
        extent=(-0.5, classes - 0.5, classes - 0.5, -0.5),
    )
    ticks = [0, 0.01, 0.05, 0.2, 0.5, 1]
    bar = figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8, ticks=ticks)
    bar.ax.set_yticklabels([f"{tick:.0%}" for tick in ticks])
    if few:
        _label_cells(axes, counts_KK, share_KK, names)
    else:
        (text,) = beside
        text.axis("off")
        text.text(0, 1, _worst(counts_KK, share_KK, names), va="top", fontsize=9, transform=text.transAxes)
    axes.set(xlabel="best-scored class", ylabel="true class")
    figure.suptitle(as_text(title), fontsize=11)
    return figure


def class_accuracy_figure(counts_KK: np.ndarray, names: Sequence[str], title: str = "Accuracy") -> Figure:
    """Accuracy of each class that was seen, the lowest first, with its number of images; with more than 40
    classes the 20 lowest and the 20 highest."""
    images_K, right_K = counts_KK.sum(axis=1), counts_KK.diagonal()
    seen = np.flatnonzero(images_K)
    accuracy = {int(k): right_K[k] / images_K[k] for k in seen}
    ordered = sorted(accuracy, key=lambda k: (accuracy[k], k))
    half = MAX_BARS // 2
    shown = ordered if len(ordered) <= MAX_BARS else [*ordered[:half], *ordered[-half:]]
    figure = Figure(figsize=(8, 1.6 + 0.24 * len(shown)), layout="constrained")
    axes = figure.subplots()
    places = range(len(shown))
    axes.barh(places, [100 * accuracy[k] for k in shown], color=BLUE)
    axes.set_yticks(places, [short_name(names[k], 30) for k in shown])
    for place, k in enumerate(shown):
        count = f" {100 * accuracy[k]:.0f} % of {images_K[k]:.0f}"
        axes.text(100 * accuracy[k], place, count, va="center", fontsize=8)
    axes.set(xlabel="accuracy, %", xlim=(0, 118), ylim=(len(shown) - 0.4, -0.6))
    axes.set_xticks(range(0, 101, 20))
    axes.spines[["top", "right"]].set_visible(False)
    if len(shown) < len(ordered):
        axes.set_title(f"the {half} lowest and the {half} highest of {len(ordered):,} classes", fontsize=9)
    figure.suptitle(as_text(title), fontsize=11)
    return figure


def _label_cells(axes: Axes, counts_KK: np.ndarray, share_KK: np.ndarray, names: Sequence[str]) -> None:
    """Class names along both axes, and the count in every cell that is not empty."""
    short = [short_name(name) for name in names]
    axes.set_xticks(range(len(names)), short, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), short)
    for row, column in zip(*np.nonzero(counts_KK), strict=True):
        colour = "white" if share_KK[row, column] > 0.3 else "black"
        count = f"{counts_KK[row, column]:.0f}"
        axes.text(column, row, count, ha="center", va="center", fontsize=8, color=colour)


def _max_pool(share_KK: np.ndarray, max_side: int = 250) -> np.ndarray:
    """The matrix reduced to at most `max_side` cells a side, each the maximum of a block."""
    starts = np.arange(0, len(share_KK), math.ceil(len(share_KK) / max_side))
    return np.maximum.reduceat(np.maximum.reduceat(share_KK, starts, axis=0), starts, axis=1)


def _worst(counts_KK: np.ndarray, share_KK: np.ndarray, names: Sequence[str], length: int = 15) -> str:
    """A list of the classes with the lowest accuracy, and one of the pairs that are confused most."""
    images_K, accuracy_K = counts_KK.sum(axis=1), share_KK.diagonal()
    lowest = [k for k in np.argsort(accuracy_K, kind="stable") if images_K[k]][:length]
    lines = ["Recognised least", *(f"{accuracy_K[k]:5.0%}  {short_name(names[k], 30)}" for k in lowest)]
    wrong_KK = counts_KK * (1 - np.eye(len(names), dtype=counts_KK.dtype))
    pairs = np.argsort(-wrong_KK, axis=None, kind="stable")[:length]
    lines += ["", "Confused most"]
    for true, predicted in zip(*np.unravel_index(pairs, wrong_KK.shape), strict=True):
        if wrong_KK[true, predicted]:
            count = f"{wrong_KK[true, predicted]:.0f} of {images_K[true]:.0f}"
            lines.append(f"{count}  {short_name(names[true], 22)} taken for {short_name(names[predicted], 22)}")
    return "\n".join(lines)
