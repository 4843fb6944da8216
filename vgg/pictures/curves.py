"""Learning curves. Drawn without pyplot, so any thread may draw."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vgg.pictures.style import BLUE, GREEN, ORANGE, as_text


def training_curves(losses: Sequence[float], validations: Sequence[dict[str, Any]]) -> Figure:
    """Training and validation loss by step, and validation errors with the learning rate's drops."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_losses(left, losses, validations)
    _draw_errors(right, validations)
    for axes in (left, right):
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    return figure


def _draw_losses(axes: Axes, losses: Sequence[float], validations: Sequence[dict[str, Any]]) -> None:
    steps = np.arange(1, len(losses) + 1)
    window = max(1, len(losses) // 40)
    smooth = _running_mean(np.asarray(losses, float), window)
    axes.plot(steps, losses, color=BLUE, alpha=0.25, linewidth=1)
    marker = "o" if len(losses) == 1 else None  # a line of one point is invisible
    axes.plot(steps[window - 1 :], smooth, color=BLUE, marker=marker, label=f"training, mean of {window:,}")
    validation_losses = [v["loss"] for v in validations]
    if validations:
        at = [v["step"] for v in validations]
        axes.plot(at, validation_losses, color=ORANGE, label="validation", marker="o", markersize=3)
    axes.set_ylim(*_loss_range(losses, validation_losses))
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
        errors = [100 * (1 - v[key]) for v in validations]
        axes.plot(at, errors, color=colour, label=label, marker="o", markersize=3)
    counted = [(v["step"], 100 * (1 - v["train_top1"])) for v in validations if v.get("train_top1") is not None]
    if counted:
        axes.plot(
            *zip(*counted, strict=True), color=GREEN, label="top-1, training", linestyle="--", linewidth=1
        )
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
    axes.set_ylim(0, None)


@dataclass(frozen=True)
class Curve:
    """Validation errors of one training."""

    name: str
    images: list[float]
    """Training images seen so far, at each validation."""
    errors: list[float]
    """Top-1, percent."""


def compared_curves(curves: Sequence[Curve]) -> Figure:
    """Validation errors of several trainings in one diagram."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots()
    for curve in curves:
        axes.plot(curve.images, curve.errors, marker="o", markersize=3, label=as_text(curve.name))
    axes.set(xlabel="training images seen", ylabel="top-1 validation error, %", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _running_mean(values_N: np.ndarray, window: int) -> np.ndarray:
    """Mean of each `window` successive values, NaN and infinity left out."""
    if not len(values_N):
        return values_N
    finite_N = np.isfinite(values_N)
    total = np.convolve(np.where(finite_N, values_N, 0), np.ones(window), "valid")
    count = np.convolve(finite_N, np.ones(window), "valid")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _loss_range(*curves: Sequence[float]) -> tuple[float | None, float | None]:
    """Limits of the loss axis, so that a single spike does not flatten the rest."""
    values = np.concatenate([np.asarray(curve, float) for curve in curves])
    values = values[np.isfinite(values)]
    if not len(values):
        return None, None
    usual, highest = np.percentile(values, 98), values.max()
    return (0.0, None) if highest <= 2 * usual else (0.0, 1.2 * usual)
