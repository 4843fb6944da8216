"""Tables of errors as Markdown and as one HTML page; the templates lie in `templates`."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, select_autoescape
from matplotlib.figure import Figure

from vgg.pictures.dots import Dot, dot_plot
from vgg.reporting.paper_results import Errors


@dataclass(frozen=True)
class ComparisonRow:
    """A row: published errors and ours, in percent."""

    label: str
    reference: Errors
    ours: Errors | None
    note: str = ""
    interval: tuple[float, float] | None = None
    """95 % interval of our top-1 error."""

    @property
    def difference(self) -> Errors | None:
        """Ours less the published errors; None for each that is missing."""
        if self.ours is None:
            return None
        top1, top5 = (
            None if ours is None or reference is None else ours - reference
            for ours, reference in zip(self.ours, self.reference, strict=True)
        )
        return top1, top5


@dataclass(frozen=True)
class ComparisonTable:
    """A table of our errors beside those of a reference."""

    title: str
    reference_name: str
    rows: tuple[ComparisonRow, ...]
    higher_is_better: bool = False
    """Of what is no error; its title says what it is."""

    @property
    def run(self) -> list[ComparisonRow]:
        """The rows with a result of ours, the best first."""
        sign = -1 if self.higher_is_better else 1
        return sorted(
            (row for row in self.rows if row.ours), key=lambda row: sign * ((row.ours or (None,))[0] or 0.0)
        )

    @property
    def not_run(self) -> list[ComparisonRow]:
        """The rows without."""
        return [row for row in self.rows if not row.ours]


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


def to_markdown(tables: Sequence[ComparisonTable]) -> str:
    """All tables, without the curves."""
    return page_templates("vgg.reporting").get_template("report.md.jinja").render(tables=tables)


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
            cards=cards,
            dots_png=png_base64(dot_plot(dots)) if dots else None,
            curves_png=png_base64(curves) if curves is not None else None,
            subtitle=subtitle,
        )
    )


def png_base64(figure: Figure) -> str:
    """The picture as it stands in a page."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return base64.b64encode(file.getvalue()).decode()


def format_errors(errors: Errors | None, *, sign: bool = False) -> str:
    """Top-1 / top-5 with one decimal; a dash for what is missing."""
    if errors is None or errors == (None, None):
        return "–"
    form = "{:+.1f}" if sign else "{:.1f}"
    return " / ".join("–" if error is None else form.format(error) for error in errors)


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
