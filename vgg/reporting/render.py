"""Tables of errors as Markdown and as one HTML page."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from vgg.reporting.paper_results import Errors

EXPLANATION = "Top-1 / top-5 error in percent; a dash where nothing was run or published"


STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem }
table { border-collapse: collapse; width: 100% }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 18rem }
th { border-bottom: 2px solid #888; font-weight: 600 }
td.note { color: #777; font-size: .85em; text-align: left; white-space: normal }
.better { color: #1b7a3a } .worse { color: #b03030 } .none { color: #bbb }
img { max-width: 100% }
"""


@dataclass(frozen=True)
class ComparisonRow:
    """A row: what was published, what is ours, in percent."""

    label: str
    published: Errors
    ours: Errors | None
    note: str = ""


@dataclass(frozen=True)
class ComparisonTable:
    """A table; `against` names whose figures ours stand beside."""

    title: str
    against: str
    rows: tuple[ComparisonRow, ...]


def to_markdown(sections: Sequence[ComparisonTable]) -> str:
    """Tables of top-1 / top-5 errors."""
    lines = [
        "# Ours beside the paper",
        "",
        "Top-1 / top-5 error, percent. A dash: not run, or not published.",
        "",
    ]
    for section in sections:
        lines += [
            f"## {section.title}",
            "",
            f"| | {section.against} | ours | difference | |",
            "|---|---|---|---|---|",
        ]
        for row in section.rows:
            difference = _difference(row)
            cells = (row.label, _pair(row.published), _pair(row.ours), _pair(difference, sign=True), row.note)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def to_html(sections: Sequence[ComparisonTable], curves: Figure | None, subtitle: str) -> str:
    """One page that needs no other file."""
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8><title>VGG: ours beside the paper</title>",
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style></head><body>",
        "<h1>Very deep convolutional networks: ours beside the paper</h1>",
        f"<p>{html.escape(subtitle)}. {EXPLANATION}.</p>",
    ]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2><table>")
        parts.append(f"<tr><th></th><th>{section.against}</th><th>ours</th><th>difference</th><th></th></tr>")
        for row in section.rows:
            difference = _difference(row)
            kind = "none"
            if difference is not None and difference[0] is not None:
                kind = "better" if difference[0] <= 0 else "worse"
            parts.append(
                f"<tr><td>{html.escape(row.label)}</td>"
                f"<td>{_pair(row.published)}</td><td>{_pair(row.ours)}</td>"
                f"<td class={kind}>{_pair(difference, sign=True)}</td>"
                f"<td class=note>{html.escape(row.note)}</td></tr>"
            )
        parts.append("</table>")
    if curves is not None:
        file = io.BytesIO()
        curves.savefig(file, format="png", dpi=120)
        image = base64.b64encode(file.getvalue()).decode()
        parts.append(
            f"<h2>Learning curves</h2><img alt='validation errors' src='data:image/png;base64,{image}'>"
        )
    return "\n".join([*parts, "</body></html>"])


def _difference(row: ComparisonRow) -> Errors | None:
    """Ours less the published, where both are there."""
    if row.ours is None:
        return None
    first, second = (
        None if ours is None or theirs is None else ours - theirs
        for ours, theirs in zip(row.ours, row.published, strict=True)
    )
    return first, second


def _pair(errors: Errors | None, *, sign: bool = False) -> str:
    if errors is None or errors == (None, None):
        return "–"
    form = "{:+.1f}" if sign else "{:.1f}"
    return " / ".join("–" if error is None else form.format(error) for error in errors)
