"""The report's page and Markdown: figures as they are, text that cannot be taken for markup."""

from html.parser import HTMLParser

import pytest

from vgg.pictures.curves import Curve, compared_curves
from vgg.reporting.comparison import ComparisonRow, ComparisonTable
from vgg.reporting.render import Card, to_html, to_markdown

TRAP = "<b>D</b> & 'E' | \"F\""


class Page(HTMLParser):
    """Tags with their attributes, and texts, of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data.strip())


def table(*rows):
    return [ComparisonTable(f"Table of {TRAP}", "paper", rows)]


def test_text_is_never_markup():
    page = Page(to_html(table(ComparisonRow(TRAP, (25.0, 8.0), None, f"net {TRAP}")), None, f"about {TRAP}"))
    assert "b" not in {tag for tag, _ in page.tags}
    for text in (TRAP, f"net {TRAP}", f"Table of {TRAP}"):
        assert text in page.texts
    assert any(text.startswith(f"about {TRAP}.") for text in page.texts)


@pytest.mark.parametrize(
    ("reference", "ours", "cells", "kind"),
    [
        ((24.8, 7.5), (24.3, 7.75), ["24.8 / 7.5", "24.3 / 7.8", "-0.5 / +0.2"], "better"),
        ((24.8, 7.5), (24.8, 7.5), ["24.8 / 7.5", "24.8 / 7.5", "+0.0 / +0.0"], "better"),
        ((24.8, None), (25.0, 7.0), ["24.8 / –", "25.0 / 7.0", "+0.2 / –"], "worse"),
        ((None, 7.9), (25.0, 7.0), ["– / 7.9", "25.0 / 7.0", "– / -0.9"], "none"),
        ((24.8, 7.5), None, ["24.8 / 7.5", "–", "–"], "none"),
        ((24.8, None), (25.0, None), ["24.8", "25.0", "+0.2"], "worse"),
        ((None, 7.9), (None, 7.0), ["7.9", "7.0", "-0.9"], "none"),
    ],
)
def test_cells_are_errors_and_their_difference(reference, ours, cells, kind):
    tables = table(ComparisonRow("D", reference, ours))
    page = Page(to_html(tables, None, "tests"))
    assert [text for text in page.texts if text][-4:] == ["D", *cells]
    classes = [attributes.get("class") for tag, attributes in page.tags if tag == "td"]
    assert classes == [None, None, None, kind, "note"]
    assert to_markdown(tables).splitlines()[-1] == f"| D | {' | '.join(cells)} |  |"


@pytest.mark.parametrize(
    ("errors", "heading", "cell"),
    [((9.6, None), "top-1 error, %", "9.6"), ((9.6, 1.25), "top-1 / top-5 error, %", "9.6 / 1.2")],
)
def test_without_anything_published_there_is_nothing_beside_ours(errors, heading, cell):
    remark = "The largest class is 20.0 % of the images."
    rows = (ComparisonRow("A, dense", (None, None), errors, "a note"),)
    tables = [ComparisonTable("photos", "published", rows, remark=remark)]
    text, markdown = to_html(tables, None, "tests"), to_markdown(tables)
    page = Page(text)
    assert [t for t in page.texts if t][-6:] == ["photos", remark, heading, "A, dense", cell, "a note"]
    table_of = [line for line in markdown.splitlines() if line.startswith("|")]
    assert table_of == [f"| | {heading} | |", "|---|---|---|", f"| A, dense | {cell} | a note |"]
    assert f"\n\n{remark}\n\n|" in markdown
    assert markdown.startswith("# Results\n\nTop-1")
    for shown in (text, markdown):
        assert not [word for word in ("paper", "published", "difference", "dash", "–") if word in shown]


def test_in_markdown_too_what_was_run_comes_first():
    ran = ComparisonTable("Ran", "paper", (ComparisonRow("ours", (25.0, None), (20.0, None)),))
    empty = ComparisonTable("Empty", "paper", (ComparisonRow("x", (1.0, None), None),))
    text = to_markdown([empty, ran])
    order = [text.index(what) for what in ("# Ours beside the paper", "## Ran", "# Not run", "## Empty")]
    assert order == sorted(order)
    assert "# Not run" not in to_markdown([ran])


def test_rows_are_sorted_by_error_and_those_not_run_are_folded():
    ran = [ComparisonRow(f"ours {error}", (25.0, None), (error, None)) for error in (30.0, 20.0)]
    empty = [ComparisonRow(label, (1.0, None), None) for label in ("x", "y")]
    tables = [
        *table(ComparisonRow("not yet", (24.0, None), None), *ran),
        ComparisonTable("Empty", "paper", tuple(empty)),
    ]
    text = to_html(tables, None, "tests")
    expected = ("ours 20.0", "ours 30.0", "not run: 1 rows", "not yet", "not run: 2 rows")
    order = [text.index(what) for what in expected]
    assert order == sorted(order)
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("details") == 2
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert image["alt"].startswith("published top-1 errors")


def test_a_card_says_what_is_best_and_where():
    card = Card(
        TRAP,
        "net, dense, Q = 34",
        1.374,
        (0.59, 3.17),
        "364",
        "+0.4 from published",
        "2 results",
        "http://h/#/x",
        ("All 3 other tests lie within its interval.",),
    )
    page = Page(to_html([], None, "tests", [card]))
    within = "All 3 other tests lie within its interval."
    for text in (TRAP, "1.4 %", "top-1 error, 0.6 to 3.2 (364 images)", "net, dense, Q = 34", within):
        assert text in page.texts
    assert ("a", {"href": "http://h/#/x"}) in page.tags


def test_markdown_has_a_cell_for_each_column_whatever_the_text():
    """Bars of a name are escaped, and nothing else: Markdown is not HTML."""
    text = to_markdown(table(ComparisonRow(TRAP, (25.0, 8.0), None, "note")))
    row = text.splitlines()[-1]
    assert row == "| <b>D</b> & 'E' \\| \"F\" | 25.0 / 8.0 | – | – | note |"
    assert "\n\n## Table of" in text


def test_curves_are_in_the_page():
    curves = compared_curves([Curve("a", [1.0, 2.0], [50.0, 40.0])])
    images = [attributes for tag, attributes in Page(to_html([], curves, "tests")).tags if tag == "img"]
    assert len(images) == 1
    assert images[0]["src"].startswith("data:image/png;base64,iVBOR")
    assert "img" not in {tag for tag, _ in Page(to_html([], None, "tests")).tags}
