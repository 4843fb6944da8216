"""Learning curves. Figures are made without pyplot, so any thread may draw."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vgg.pictures.style import BLUE, ORANGE


def training_curves(losses: Sequence[float], validations: Sequence[dict[str, Any]]) -> Figure:
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


def _running_mean(values_N: np.ndarray, window: int) -> np.ndarray:
    """Mean of each `window` successive values, of those that are numbers."""
    if not len(values_N):
        return values_N
    finite_N = np.isfinite(values_N)
    total = np.convolve(np.where(finite_N, values_N, 0), np.ones(window), "valid")
    count = np.convolve(finite_N, np.ones(window), "valid")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _loss_range(*training_curves: Sequence[float]) -> tuple[float | None, float | None]:
    """What to show of these losses, where a single spike must not flatten the rest."""
    values = np.concatenate([np.asarray(curve, float) for curve in training_curves])
    values = values[np.isfinite(values)]
    if not len(values):
        return None, None
    usual, highest = np.percentile(values, 98), values.max()
    return (0.0, None) if highest <= 2 * usual else (0.0, 1.2 * usual)
