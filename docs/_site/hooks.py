"""Hooks of mkdocs: pages that lie outside docs/, a page for each package, and links between them all.

A link is written as it works in the repository; here it is led to the page that the file has become.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]

PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""File outside docs/ -> its page."""

PACKAGES = ("vgg", "cluster", "pipelines", "cli")

LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s#:]+)(#[^)\s]*)?\)")
"""A relative link or picture: what is shown, the file, the place in it."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the packages' pages."""
    assert config.nav is not None
    config.nav.append({"API": [{page.removeprefix("api/").removesuffix(".md"): page} for page in _api()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, and the files of the repository that pages link to."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for page, text in _api().items():
        files.append(File.generated(config, page, content=text))
    for source in [
        "CITATION.cff",
        *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("benchmarks/results/*")),
    ]:
        files.append(File.generated(config, source, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead each relative link to what the file has become."""
    of_page = {there: source for source, there in PAGES.items()}
    here = page.file.src_uri
    folder = posixpath.dirname(of_page.get(here, f"docs/{here}"))

    def led(link: re.Match[str]) -> str:
        shown, target, place = link[1], link[2], link[3] or ""
        source = posixpath.normpath(posixpath.join(folder, target))
        there = PAGES.get(source, source.removeprefix("docs/"))
        return f"{shown}{posixpath.relpath(there, posixpath.dirname(here) or '.')}{place})"

    return LINK.sub(led, markdown)


def _api() -> dict[str, str]:
    """A page for each package, with its modules."""
    pages = {}
    for top in PACKAGES:
        folders = [ROOT / top, *(each.parent for each in sorted((ROOT / top).glob("*/__init__.py")))]
        for folder in folders:
            package = ".".join(folder.relative_to(ROOT).parts)
            modules = [package, *(f"{package}.{each.stem}" for each in sorted(folder.glob("[!_]*.py")))]
            pages[f"api/{package}.md"] = f"# {package}\n\n" + "".join(f"::: {name}\n\n" for name in modules)
    return pages
