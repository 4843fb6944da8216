"""Tables of errors as Markdown and as one HTML page; the templates lie in `templates`."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, select_autoescape
from matplotlib.figure import Figure

from vgg.pictures.dots import Dot, dot_plot
from vgg.reporting.comparison import ComparisonTable, format_errors, is_compared, legend


@dataclass(frozen=True)
class Card:
    """The best test of a data set, as the report shows it."""

    data: str
    best: str
    """Net, protocol and scales."""
    error: float
    """Top-1, percent."""
    interval: tuple[float, float] | None
    images: str
    distance: str
    """From the published error, if one can be compared."""
    tests: str
    link: str
    remarks: tuple[str, ...] = ()
    """What the error is to be read with: the largest class, the other tests."""


def to_markdown(tables: Sequence[ComparisonTable]) -> str:
    """All tables, without the curves; those without a result of ours last."""
    template = page_templates("vgg.reporting").get_template("report.md.jinja")
    return template.render(tables=tables, is_compared=is_compared(tables), legend=legend(tables))


def to_html(
    tables: Sequence[ComparisonTable], curves: Figure | None, subtitle: str, cards: Sequence[Card] = ()
) -> str:
    """One page that needs no other file."""
    dots = [
        Dot(f"{re.split('[.,]', table.title)[0]}: {row.label}", row.reference[0], row.ours[0], row.interval)
        for table in tables
        if not table.higher_is_better
        for row in table.run
        if row.ours is not None and row.ours[0] is not None and row.reference[0] is not None
    ]
    return (
        page_templates("vgg.reporting")
        .get_template("report.html.jinja")
        .render(
            tables=tables,
            is_compared=is_compared(tables),
            legend=legend(tables),
            cards=cards,
            dots_png=png_base64(dot_plot(dots)) if dots else None,
            curves_png=png_base64(curves) if curves is not None else None,
            subtitle=subtitle,
        )
    )


def png_base64(figure: Figure) -> str:
    """The picture as it stands in a page."""
    return base64.b64encode(png(figure)).decode()


def png(figure: Figure) -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def page_templates(package: str) -> Environment:
    """The templates of pages in a package's folder."""
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(["html.jinja"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["errors"] = format_errors
    environment.filters["cell"] = lambda text: text.replace("|", "\\|")  # of a Markdown table
    return environment
