"""A figure as the bytes of a PNG file."""

import io

from matplotlib.figure import Figure

DOTS_PER_INCH = 110


def as_png(figure: Figure) -> bytes:
    """The figure, drawn."""
    figure.savefig(file := io.BytesIO(), format="png", dpi=DOTS_PER_INCH)
    return file.getvalue()
