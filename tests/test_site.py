"""The documentation site: built as `make docs` does, with every link and anchor in it followed."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parent.parent


class Page(HTMLParser):
    """What a page points to, and what can be pointed to in it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file.resolve()
        self.to: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text())

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.to += [values[key] for key in ("href", "src") if values.get(key)]
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return {file.relative_to(out).as_posix(): Page(file) for file in out.rglob("*.html")}


def test_every_link_leads_somewhere(site):
    anchors = {page.file: page.anchors for page in site.values()}
    broken = []
    for name, page in site.items():
        for address in page.to:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc or name == "404.html":  # that one is served anywhere
                continue
            target = (page.file.parent / unquote(parts.path)).resolve() if parts.path else page.file
            target = target / "index.html" if target.is_dir() else target
            there = unquote(parts.fragment) in anchors[target] if target in anchors else target.is_file()
            if not there and not (target in anchors and not parts.fragment):
                broken.append(f"{name}: {address}")
    assert broken == []


def test_every_row_is_in_its_table(site):
    """Markdown makes a paragraph of rows that an empty line parts from their head."""
    lost = [name for name, page in site.items() if re.search(r"<p>\s*\|", page.file.read_text())]
    assert lost == []


def test_the_first_page_is_the_readme_and_the_api_is_there(site):
    assert "two-commands" in site["index.html"].anchors
    assert {"vgg.load", "vgg.inference.features"} & site["api/vgg.html"].anchors
    assert "vgg.training.schedule.learning_rate" in site["api/vgg.training.html"].anchors
    assert "architecture.html" in site
