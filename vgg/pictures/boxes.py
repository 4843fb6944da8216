"""Predicted against true boxes. Drawn without pyplot, so any thread may draw.

Shapes: B images, H and W sides in pixels, C = 3 (RGB); 4: xmin, ymin, xmax, ymax as fractions of the image.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vgg.pictures.style import GREEN, ORANGE, RED, short_name

LOCATED_IOU = 0.5


def box_montage(
    images_HWC: Sequence[np.ndarray],
    names: Sequence[str],
    found_B4: np.ndarray,
    true_m4: Sequence[np.ndarray],
    iou: Sequence[float],
) -> Figure:
    """Images (0 to 255), each with its true boxes in orange and the predicted one: in green if it is right.

    `true_m4`: the boxes of each image; `iou`: overlap of each prediction with the best of them.
    """
    columns = max(1, math.ceil(math.sqrt(1.6 * len(images_HWC))))
    rows = math.ceil(len(images_HWC) / columns)
    figure = Figure(figsize=(1.9 * columns, 2.2 * rows + 0.4), layout="constrained")
    figure.suptitle("Boxes: true in orange; predicted in green if IoU > 0.5, else in red")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for i, axes in enumerate(grid.flat[: len(images_HWC)]):
        height, width, _ = images_HWC[i].shape
        axes.imshow(np.clip(images_HWC[i] / 255, 0, 1), interpolation="nearest", extent=(0, width, height, 0))
        right = iou[i] > LOCATED_IOU
        for edges_4 in true_m4[i]:
            _draw(axes, edges_4, width, height, ORANGE)
        _draw(axes, found_B4[i], width, height, GREEN if right else RED)
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_title(f"{short_name(names[i])}\nIoU {iou[i]:.2f}", color=GREEN if right else RED, fontsize=8)
    return figure


def _draw(axes: Axes, edges_4: np.ndarray, width: int, height: int, colour: str) -> None:
    x0, y0, x1, y1 = edges_4 * [width, height, width, height]
    corner, size = (min(x0, x1), min(y0, y1)), (abs(x1 - x0), abs(y1 - y0))
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=2))
