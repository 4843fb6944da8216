"""Pictures that people look at. Figures are made without pyplot, so any thread may draw.

Shapes: B images, H and W sides in pixels, C = 3 (RGB), O output and I input channels, K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

BLUE, ORANGE, GREEN, RED = "#3366aa", "#dd8833", "#338855", "#bb3333"
NUMBERED_CLASSES = 30  # more are too small to be read


def curves(losses: Sequence[float], validations: Sequence[dict[str, Any]]) -> Figure:
    """Training loss by step, and validation errors with the learning rate's drops."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = np.arange(1, len(losses) + 1)
    window = max(1, len(losses) // 40)
    smooth = _running_mean(np.asarray(losses, float), window)
    left.plot(steps, losses, color=BLUE, alpha=0.25, linewidth=1)
    dot = "o" if len(losses) == 1 else None  # a line of one point is not seen
    left.plot(steps[window - 1 :], smooth, color=BLUE, marker=dot, label=f"training, mean of {window:,}")
    if validations:
        at = [v["step"] for v in validations]
        style = {"marker": "o", "markersize": 3}
        left.plot(at, [v["loss"] for v in validations], color=ORANGE, label="validation", **style)
        right.plot(at, [100 * (1 - v["top1"]) for v in validations], color=BLUE, label="top-1", **style)
        right.plot(at, [100 * (1 - v["top5"]) for v in validations], color=ORANGE, label="top-5", **style)
        for before, now in pairwise(validations):
            if now["lr"] < before["lr"]:
                right.axvline(before["step"], color="gray", linewidth=0.8, linestyle=":")
                right.annotate(
                    f"lr {now['lr']:.0e}",
                    (before["step"], 0.98),
                    xycoords=("data", "axes fraction"),
                    xytext=(-2, 0),
                    textcoords="offset points",
                    rotation=90,
                    ha="right",
                    va="top",
                    fontsize=8,
                    color="gray",
                )
        right.set_ylim(0, None)
    else:
        right.text(0.5, 0.5, "not validated yet", ha="center", color="gray", transform=right.transAxes)
    left.set_ylim(*_loss_range(losses, [v["loss"] for v in validations]))
    left.set(xlabel="step", ylabel="loss, nats", title="Loss")
    right.set(xlabel="step", ylabel="error, %", title="Validation error")
    for axes in (left, right):
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    return figure


@dataclass(frozen=True)
class Curve:
    """Validation errors of one training."""

    name: str
    images: list[float]
    """Training images seen so far, at each validation."""
    errors: list[float]
    """Top-1, percent."""


def compared_curves(curves_of: Sequence[Curve]) -> Figure:
    """Validation errors of several trainings over each other."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots()
    for curve in curves_of:
        axes.plot(curve.images, curve.errors, marker="o", markersize=3, label=curve.name)
    axes.set(xlabel="training images seen", ylabel="top-1 validation error, %", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
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
    captions = [_short(label) for label in labels]
    return _montage(list(shown), captions, ["black"] * len(labels), "Inputs as the net sees them", 1.4)


def predictions(
    pixels_BHWC: np.ndarray, true: Sequence[str], predicted: Sequence[str], confidence: Sequence[float]
) -> Figure:
    """Validation crops with the best-scored class: green where it is right, red with the truth where not."""
    titles, colours = [], []
    for truth, guess, share in zip(true, predicted, confidence, strict=True):
        right = truth == guess
        titles.append(f"{_short(guess)}\n{share:.0%}" + ("" if right else f", is {_short(truth, 12)}"))
        colours.append(GREEN if right else RED)
    return _montage(list(np.clip(pixels_BHWC / 255, 0, 1)), titles, colours, "Predictions", 1.4)


def answers(images_HWC: Sequence[np.ndarray], best: Sequence[Sequence[tuple[str, float]]]) -> Figure:
    """Images (uint8), each beside the classes that a net believes in most and how much (a fraction)."""
    figure = Figure(figsize=(9, 2.6 * len(images_HWC)), layout="constrained")
    grid = figure.subplots(len(images_HWC), 2, squeeze=False)
    for (picture, bars), image_HWC, classes in zip(grid, images_HWC, best, strict=True):
        picture.imshow(image_HWC)
        picture.axis("off")
        places = range(len(classes))
        bars.barh(places, [share for _, share in classes], color=BLUE)
        bars.set_yticks(places, [_short(name, 30) for name, _ in classes])
        bars.invert_yaxis()
        bars.set_xlim(0, 1)
        bars.xaxis.set_major_formatter(PercentFormatter(1))
        bars.spines[["top", "right"]].set_visible(False)
    return figure


def confusion(counts_KK: np.ndarray, names: Sequence[str]) -> Figure:
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
        short = [_short(name) for name in names]
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
    lines = ["Recognised least", *(f"{right_K[k]:5.0%}  {_short(names[k], 30)}" for k in least)]
    wrong_KK = counts_KK * (1 - np.eye(len(names), dtype=counts_KK.dtype))
    pairs = np.argsort(-wrong_KK, axis=None, kind="stable")[:most]
    lines += ["", "Confused most"]
    for true, given in zip(*np.unravel_index(pairs, wrong_KK.shape), strict=True):
        if wrong_KK[true, given]:
            count = f"{wrong_KK[true, given]:.0f} of {seen_K[true]:.0f}"
            lines.append(f"{count}  {_short(names[true], 22)} taken for {_short(names[given], 22)}")
    return "\n".join(lines)


def _running_mean(values_N: np.ndarray, window: int) -> np.ndarray:
    """Mean of each `window` successive values, of those that are numbers."""
    if not len(values_N):
        return values_N
    finite_N = np.isfinite(values_N)
    total = np.convolve(np.where(finite_N, values_N, 0), np.ones(window), "valid")
    count = np.convolve(finite_N, np.ones(window), "valid")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _loss_range(*curves: Sequence[float]) -> tuple[float | None, float | None]:
    """What to show of these losses, where a single spike must not flatten the rest."""
    values = np.concatenate([np.asarray(curve, float) for curve in curves])
    values = values[np.isfinite(values)]
    if not len(values):
        return None, None
    usual, highest = np.percentile(values, 98), values.max()
    return (0.0, None) if highest <= 2 * usual else (0.0, 1.2 * usual)


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


def _short(name: str, most: int = 16) -> str:
    """The first of several synonyms, cut to fit."""
    first = name.partition(",")[0]
    return first if len(first) <= most else first[: most - 1] + "…"
