"""Learning curves. Drawn without pyplot, so any thread may draw."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from vgg.pictures.style import BLUE, GREEN, ORANGE, RED, as_text


def training_curves(losses: Sequence[float], validations: Sequence[dict[str, Any]], title: str = "") -> Figure:
    """Training and validation loss by step, and validation errors with the learning rate's drops, both on
    logarithmic axes; the best validation is marked. `title`: of what they are."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    if title:
        figure.suptitle(as_text(title), fontsize=11)
    left, right = figure.subplots(1, 2)
    _draw_losses(left, losses, validations)
    _draw_errors(right, validations)
    for axes in (left, right):
        on_log_axis(axes)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
    return figure


def _draw_losses(axes: Axes, losses: Sequence[float], validations: Sequence[dict[str, Any]]) -> None:
    steps = np.arange(1, len(losses) + 1)
    window = max(1, len(losses) // 40)
    smooth = _running_mean(np.asarray(losses, float), window)
    axes.plot(steps, losses, color=BLUE, alpha=0.25, linewidth=1)
    marker = "o" if len(losses) == 1 else None  # a line of one point is invisible
    axes.plot(steps[window - 1 :], smooth, color=BLUE, marker=marker, label=f"training, mean of {window:,}")
    if validations:
        at = [v["step"] for v in validations]
        axes.plot(
            at, [v["loss"] for v in validations], color=ORANGE, label="validation", marker="o", markersize=3
        )
        axes.axvline(_best(validations)["step"], color=GREEN, linewidth=0.8, linestyle="--")
    axes.set(xlabel="step", ylabel="loss, nats", title="Loss")


def _draw_errors(axes: Axes, validations: Sequence[dict[str, Any]]) -> None:
    axes.set(xlabel="step", ylabel="error, %", title="Error")
    if not validations:
        axes.text(0.5, 0.5, "not validated yet", ha="center", color="gray", transform=axes.transAxes)
        return
    at = [v["step"] for v in validations]
    for key, label, colour in (("top1", "top-1", BLUE), ("top5", "top-5", ORANGE)):
        if any(v[key] is None for v in validations):  # top-5 of five classes or fewer
            continue
        axes.plot(
            at, [_error(v, key) for v in validations], color=colour, label=label, marker="o", markersize=3
        )
    counted = [(v["step"], _error(v, "train_top1")) for v in validations if v.get("train_top1") is not None]
    if counted:
        axes.plot(
            *zip(*counted, strict=True), color=GREEN, label="top-1, training", linestyle="--", linewidth=1
        )
    best = _best(validations)
    label = f"best: {100 * (1 - best['top1']):.1f} %, step {best['step']:,}"
    axes.plot([best["step"]], [_error(best, "top1")], "*", color=GREEN, markersize=14, label=label)
    for before, after in pairwise(validations):
        if after["lr"] < before["lr"]:
            axes.axvline(before["step"], color="gray", linewidth=0.8, linestyle=":")
            axes.annotate(
                f"lr {after['lr']:.0e}",
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


def _best(validations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first with the highest top-1 accuracy, whose checkpoint is the best one."""
    return max(validations, key=lambda v: v["top1"])


def _error(validation: dict[str, Any], key: str) -> float:
    """In percent; of no wrong image at all, half an image's, as a logarithmic axis has no zero."""
    return max(100 * (1 - validation[key]), 50 / validation.get("seen", 1000))


def on_log_axis(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers."""
    axes.set_yscale("log", nonpositive="mask")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)


@dataclass(frozen=True)
class Curve:
    """Validation errors of one training."""

    name: str
    images: list[float]
    """Training images seen so far, at each validation."""
    errors: list[float]
    """Top-1, percent."""
    data: str = ""
    """The data set; curves of several are never in one diagram."""


COLOURS = (BLUE, ORANGE, GREEN, RED, "#7755aa", "#666666")
LABEL_SHARE = 0.055  # of a panel's height, for a label
LABELLED_CURVES = 12
"""Of a panel, those that end lowest; the others are drawn in grey."""


def compared_curves(curves: Sequence[Curve]) -> Figure:
    """Validation errors of several trainings: a panel for each data set, the names at the ends of the lines."""
    by_data: dict[str, list[Curve]] = {}
    for curve in curves:
        if curve.errors:
            by_data.setdefault(curve.data, []).append(curve)
    panels = max(1, len(by_data))
    figure = Figure(figsize=(9, 3.8 * panels), layout="constrained")
    for axes, (data, of_data) in zip(
        figure.subplots(panels, 1, squeeze=False)[:, 0], sorted(by_data.items()), strict=False
    ):
        _draw_panel(axes, data, of_data)
    return figure


def _draw_panel(axes: Axes, data: str, curves: Sequence[Curve]) -> None:
    ordered = sorted(curves, key=lambda curve: curve.errors[-1])
    for place, curve in reversed(list(enumerate(ordered))):
        labelled = place < LABELLED_CURVES
        colour = COLOURS[place % len(COLOURS)] if labelled else "#cccccc"
        errors = [max(error, 0.05) for error in curve.errors]
        axes.plot(curve.images, errors, color=colour, marker="o", markersize=2.5, linewidth=1.2)
    on_log_axis(axes)
    labels = {}
    for place, curve in enumerate(ordered[:LABELLED_CURVES]):
        end = curve.errors[-1]
        labels[f"{curve.name}  {end:.1f} %"] = max(end, 0.05), COLOURS[place % len(COLOURS)]
    labels_at_ends(axes, labels)
    axes.set(xlabel="training images seen", ylabel="top-1 validation error, %", title=as_text(data))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def labels_at_ends(axes: Axes, labels: Mapping[str, tuple[float, str]]) -> None:
    """Write each label at the right edge, at its height on the logarithmic axis but below or above no other.

    `labels`: text -> where its line ends, and its colour.
    """
    points_N2 = np.concatenate([np.asarray(line.get_xydata()) for line in axes.get_lines()])
    right, drawn_N = points_N2[:, 0].max(), points_N2[:, 1]
    ordered = sorted(labels.items(), key=lambda label: label[1][0])
    line = LABEL_SHARE * max(math.log(drawn_N.max() / drawn_N.min()), 0.1)
    heights = _apart([math.log(end) for _, (end, _) in ordered], line)
    for (text, (_, colour)), height in zip(ordered, heights, strict=True):
        axes.annotate(
            as_text(text),
            (right, math.exp(height)),
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            fontsize=8,
            va="center",
            annotation_clip=False,
        )


def _apart(heights: Sequence[float], least: float) -> list[float]:
    """Ascending heights, moved up so far that there is `least` between them."""
    moved: list[float] = []
    for height in heights:
        moved.append(height if not moved else max(height, moved[-1] + least))
    return moved


def _running_mean(values_N: np.ndarray, window: int) -> np.ndarray:
    """Mean of each `window` successive values, NaN and infinity left out."""
    if not len(values_N):
        return values_N
    finite_N = np.isfinite(values_N)
    total = np.convolve(np.where(finite_N, values_N, 0), np.ones(window), "valid")
    count = np.convolve(finite_N, np.ones(window), "valid")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
