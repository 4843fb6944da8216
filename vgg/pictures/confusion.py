"""The confusion matrix as a picture, drawn without pyplot, so on any thread.

Shapes: K classes.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from vgg.pictures.style import short_name

NUMBERED_CLASSES = 30  # more are too small to be read


def confusion_figure(counts_KK: np.ndarray, names: Sequence[str]) -> Figure:
    """Share of each true class (row) that was given each class (column).

    Up to 30 classes every cell has its count; with more, the classes that fare worst and the pairs that are
    confused most are named beside it. Of so many classes that a cell would be smaller than a pixel, a cell is
    the highest of its neighbours.
    """
    share_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    classes = len(names)
    few = classes <= NUMBERED_CLASSES
    figure = Figure(figsize=(8, 7) if few else (14, 9), layout="constrained")
    axes, *beside = figure.subplots(1, 1 if few else 2, squeeze=False, width_ratios=[1] if few else [3, 2])[0]
    # The square root shows rare confusions too.
    image = axes.imshow(
        _pooled(share_KK),
        cmap="Blues",
        norm=PowerNorm(0.5, 0, 1),
        extent=(-0.5, classes - 0.5, classes - 0.5, -0.5),
    )
    ticks = [0, 0.01, 0.05, 0.2, 0.5, 1]
    bar = figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8, ticks=ticks)
    bar.ax.set_yticklabels([f"{tick:.0%}" for tick in ticks])
    if few:
        short = [short_name(name) for name in names]
        axes.set_xticks(range(classes), short, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(classes), short)
        for row, column in zip(*np.nonzero(counts_KK), strict=True):
            colour = "white" if share_KK[row, column] > 0.3 else "black"
            count = f"{counts_KK[row, column]:.0f}"
            axes.text(column, row, count, ha="center", va="center", fontsize=8, color=colour)
    else:
        (text,) = beside
        text.axis("off")
        text.text(0, 1, _worst(counts_KK, share_KK, names), va="top", fontsize=9, transform=text.transAxes)
    axes.set(xlabel="best-scored class", ylabel="true class", title="Confusion")
    return figure


def _pooled(share_KK: np.ndarray, most: int = 250) -> np.ndarray:
    """At most `most` cells a side, each the highest of those it stands for."""
    starts = np.arange(0, len(share_KK), math.ceil(len(share_KK) / most))
    return np.maximum.reduceat(np.maximum.reduceat(share_KK, starts, axis=0), starts, axis=1)


def _worst(counts_KK: np.ndarray, share_KK: np.ndarray, names: Sequence[str], most: int = 15) -> str:
    """The classes that are recognised least, and the pairs that are confused most."""
    seen_K, right_K = counts_KK.sum(axis=1), share_KK.diagonal()
    least = [k for k in np.argsort(right_K, kind="stable") if seen_K[k]][:most]
    lines = ["Recognised least", *(f"{right_K[k]:5.0%}  {short_name(names[k], 30)}" for k in least)]
    wrong_KK = counts_KK * (1 - np.eye(len(names), dtype=counts_KK.dtype))
    pairs = np.argsort(-wrong_KK, axis=None, kind="stable")[:most]
    lines += ["", "Confused most"]
    for true, given in zip(*np.unravel_index(pairs, wrong_KK.shape), strict=True):
        if wrong_KK[true, given]:
            count = f"{wrong_KK[true, given]:.0f} of {seen_K[true]:.0f}"
            lines.append(f"{count}  {short_name(names[true], 22)} taken for {short_name(names[given], 22)}")
    return "\n".join(lines)
