"""Published errors and ours on one scale. Drawn without pyplot, so any thread may draw."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from vgg.pictures.style import BLUE, ORANGE, as_text

MAX_LABEL = 60


@dataclass(frozen=True)
class Dot:
    """Top-1 errors, percent, of a published test and of ours."""

    label: str
    published: float
    ours: float
    interval: tuple[float, float] | None
    """95 %, of ours."""


def dot_plot(dots: Sequence[Dot]) -> Figure:
    """A line for each test, from the top in the order given: the published error, ours and its interval."""
    figure = Figure(figsize=(9, 1.3 + 0.3 * len(dots)), layout="constrained")
    axes = figure.subplots()
    places = list(range(len(dots)))
    for place, dot in zip(places, dots, strict=True):
        axes.plot([dot.published, dot.ours], [place, place], color="#cccccc", linewidth=1, zorder=1)
        if dot.interval is not None:
            axes.plot(dot.interval, [place, place], color=BLUE, linewidth=3, alpha=0.4, zorder=2)
    axes.plot([dot.published for dot in dots], places, "o", color=ORANGE, label="published", zorder=3)
    axes.plot(
        [dot.ours for dot in dots], places, "o", color=BLUE, label="ours, with the 95 % interval", zorder=3
    )
    axes.set_yticks(places, [as_text(dot.label[:MAX_LABEL]) for dot in dots], fontsize=8)
    axes.set(xlabel="top-1 error, %", ylim=(len(dots) - 0.5, -0.5))
    axes.grid(axis="x", alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return figure
