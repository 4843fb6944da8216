"""Pictures that people look at. Figures are made without pyplot, so any thread may draw.

Shapes: B images, H and W sides in pixels, C = 3 (RGB), O output and I input channels, K classes.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED = "#3366aa", "#dd8833", "#338855", "#bb3333"


def curves(losses: Sequence[float], validations: Sequence[dict[str, Any]]) -> Figure:
    """Training loss by step, and validation errors with the learning rate's drops."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = np.arange(1, len(losses) + 1)
    left.plot(steps, losses, color=BLUE, alpha=0.25, linewidth=1)
    window = max(1, len(losses) // 40)
    if len(losses) >= window:
        smooth = np.convolve(losses, np.ones(window) / window, "valid")
        left.plot(steps[window - 1 :], smooth, color=BLUE, label=f"training, mean of {window}")
    if validations:
        at = [v["step"] for v in validations]
        left.plot(at, [v["loss"] for v in validations], "o-", color=ORANGE, markersize=3, label="validation")
        right.plot(at, [100 * (1 - v["top1"]) for v in validations], "o-", markersize=3, label="top-1")
        right.plot(at, [100 * (1 - v["top5"]) for v in validations], "o-", markersize=3, label="top-5")
        for before, now in pairwise(validations):
            if now["lr"] < before["lr"]:
                right.axvline(before["step"], color="gray", linewidth=0.8, linestyle=":")
                right.annotate(f" lr {now['lr']:.0e}", (before["step"], 0.98), None, ("data", "axes fraction"))
    left.set(xlabel="step", ylabel="loss, nats", title="Loss")
    right.set(xlabel="step", ylabel="error, %", title="Validation error", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    return figure


def filters(weights_OIHW: np.ndarray) -> Figure:
    """First-layer filters as colour tiles, each stretched to its own range."""
    low = weights_OIHW.min(axis=(1, 2, 3), keepdims=True)
    high = weights_OIHW.max(axis=(1, 2, 3), keepdims=True)
    tiles = ((weights_OIHW - low) / np.maximum(high - low, 1e-12)).transpose(0, 2, 3, 1)
    return _montage(list(tiles), [""] * len(tiles), ["black"] * len(tiles), "First-layer filters", 0.7)


def inputs(pixels_BHWC: np.ndarray, labels: Sequence[str]) -> Figure:
    """Training crops as the net sees them, with the training mean added back; values from 0 to 255."""
    shown = np.clip(pixels_BHWC / 255, 0, 1)
    return _montage(list(shown), labels, ["black"] * len(labels), "Inputs as the net sees them", 1.4)


def predictions(
    pixels_BHWC: np.ndarray, true: Sequence[str], predicted: Sequence[str], confidence: Sequence[float]
) -> Figure:
    """Validation crops with the best-scored class: green where it is right, red with the truth where not."""
    titles, colours = [], []
    for truth, guess, share in zip(true, predicted, confidence, strict=True):
        right = truth == guess
        titles.append(f"{_short(guess)} {share:.0%}" + ("" if right else f"\nis {_short(truth)}"))
        colours.append(GREEN if right else RED)
    return _montage(list(np.clip(pixels_BHWC / 255, 0, 1)), titles, colours, "Predictions", 1.4)


def confusion(counts_KK: np.ndarray, names: Sequence[str]) -> Figure:
    """Share of each true class (row) that was given each class (column); numbers where they can be read."""
    share_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    classes = len(names)
    size = 7.0 if classes <= 30 else 9.0
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share_KK, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    if classes <= 30:
        short = [_short(name) for name in names]
        axes.set_xticks(range(classes), short, rotation=60, ha="right")
        axes.set_yticks(range(classes), short)
        for row, column in zip(*np.nonzero(counts_KK), strict=True):
            dark = share_KK[row, column] > 0.5
            axes.text(
                column,
                row,
                str(int(counts_KK[row, column])),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
    axes.set(xlabel="best-scored class", ylabel="true class", title="Confusion")
    return figure


def _montage(
    images: Sequence[np.ndarray], titles: Sequence[str], colours: Sequence[str], title: str, inches: float
) -> Figure:
    columns = math.ceil(math.sqrt(len(images) * 1.6))
    rows = math.ceil(len(images) / columns)
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


def _short(name: str) -> str:
    """The first of several synonyms, cut to fit."""
    first = name.partition(",")[0]
    return first if len(first) <= 18 else first[:17] + "…"
