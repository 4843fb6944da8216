"""Images beside what a net looks at in them. Drawn without pyplot, so any thread may draw.

Shapes: H and W sides in pixels, C = 3 (RGB), h and w of a heat map.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from vgg.pictures.images import figure_of_pairs
from vgg.pictures.style import as_text, short_name

OPACITY = 0.55
BAR_INCHES = 9.0


def heat_maps(
    images_HWC: Sequence[np.ndarray],
    heat_hw: Sequence[np.ndarray],
    best: Sequence[tuple[str, float]],
    names: Sequence[str],
    title: str,
) -> Figure:
    """Each image (uint8) below its name, and beside it once more under its heat map (0 to 1), which is spread
    over the whole image; with the class that is sought and its probability."""
    figure, pairs = figure_of_pairs(len(images_HWC), (7, 3), title)
    for (plain, covered), image_HWC, heat, (label, probability), name in zip(
        pairs, images_HWC, heat_hw, best, names, strict=True
    ):
        height, width, _ = image_HWC.shape
        for axes in (plain, covered):
            axes.imshow(image_HWC, extent=(0, width, height, 0))
            axes.axis("off")
        shown = covered.imshow(
            heat,
            extent=(0, width, height, 0),
            cmap="inferno",
            vmin=0,
            vmax=1,
            alpha=OPACITY,
            interpolation="bilinear",
        )
        plain.set_title(as_text(name), fontsize=9)
        covered.set_title(f"{short_name(label, 30)} {probability:.1%}", fontsize=9)
    shrink = min(1.0, BAR_INCHES / figure.get_figheight())
    bar = figure.colorbar(shown, ax=figure.axes, shrink=shrink, aspect=30)
    bar.set_label("evidence for it (strongest place: 1)")
    return figure
