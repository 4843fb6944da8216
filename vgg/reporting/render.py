"""Tables of errors as Markdown and as one HTML page; the templates lie in `templates`."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, select_autoescape
from matplotlib.figure import Figure

from vgg.reporting.paper_results import Errors


@dataclass(frozen=True)
class ComparisonRow:
    """A row: published errors and ours, in percent."""

    label: str
    reference: Errors
    ours: Errors | None
    note: str = ""

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


def to_markdown(tables: Sequence[ComparisonTable]) -> str:
    """All tables, without the curves."""
    return _environment().get_template("report.md.jinja").render(tables=tables)


def to_html(tables: Sequence[ComparisonTable], curves: Figure | None, subtitle: str) -> str:
    """One page that needs no other file."""
    curves_png = None
    if curves is not None:
        file = io.BytesIO()
        curves.savefig(file, format="png", dpi=120)
        curves_png = base64.b64encode(file.getvalue()).decode()
    template = _environment().get_template("report.html.jinja")
    return template.render(tables=tables, curves_png=curves_png, subtitle=subtitle)


def format_errors(errors: Errors | None, *, sign: bool = False) -> str:
    """Top-1 / top-5 with one decimal; a dash for what is missing."""
    if errors is None or errors == (None, None):
        return "–"
    form = "{:+.1f}" if sign else "{:.1f}"
    return " / ".join("–" if error is None else form.format(error) for error in errors)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("vgg.reporting"),
        autoescape=select_autoescape(["html.jinja"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["errors"] = format_errors
    environment.filters["cell"] = lambda text: text.replace("|", "\\|")  # of a Markdown table
    return environment
