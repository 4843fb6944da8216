"""A graph of steps, coloured by how far each is."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from vgg.pictures.style import BLUE, GREEN, ORANGE, RED, as_text

COLOURS = {"done": GREEN, "running": ORANGE, "failed": RED, "not run": "#bbbbbb", "waiting": BLUE}


def graph_figure(needs: Mapping[str, Sequence[str]], states: Mapping[str, str]) -> Figure:
    """Steps in columns, each to the right of those that it needs.

    `needs`: step -> the steps before it, each listed after these. `states`: step -> a key of `COLOURS`.
    """
    column: dict[str, int] = {}
    for name, before in needs.items():
        column[name] = 1 + max((column[each] for each in before), default=-1)
    columns = [[n for n in needs if column[n] == i] for i in range(1 + max(column.values(), default=0))]
    tallest = max(map(len, columns), default=1)
    figure = Figure(figsize=(2 + 2.6 * len(columns), 1 + 0.3 * tallest), layout="constrained")
    axes = figure.subplots()
    place = {
        name: (x, (row + 0.5) / len(names)) for x, names in enumerate(columns) for row, name in enumerate(names)
    }
    for name, before in needs.items():
        for each in before:
            axes.plot(*zip(place[each], place[name], strict=True), color="#cccccc", linewidth=0.6, zorder=1)
    for name, (x, y) in place.items():
        colour = COLOURS[states.get(name, "waiting")]
        box = {"boxstyle": "round,pad=0.25", "facecolor": colour, "edgecolor": "none"}
        axes.text(x, y, as_text(name), ha="center", va="center", fontsize=7, color="white", bbox=box, zorder=2)
    for state, colour in COLOURS.items():
        axes.scatter([], [], color=colour, label=state)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=len(COLOURS), frameon=False, fontsize=8)
    axes.set(xlim=(-0.6, len(columns) - 0.4), ylim=(1.02, -0.02))
    axes.axis("off")
    return figure
