"""The structure of the project is held by contracts and limits; a change that breaks them is refused."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("cli", "cluster", "pipelines", "vgg", "demo", "benchmarks")
SOURCES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
SCREEN = 50  # lines


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the packages and their contracts."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def broken_contracts(checkout: Path) -> list[str]:
    """Names of the contracts that the packages of a checkout break."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-logo", "--no-cache"], cwd=checkout, capture_output=True, text=True, check=False
    )
    broken = [line.removesuffix(" BROKEN") for line in done.stdout.splitlines() if line.endswith(" BROKEN")]
    assert (done.returncode == 0) == (not broken), done.stdout + done.stderr
    return broken


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("vgg/net/architecture.py", "import vgg.net.module", "No circle"),
        ("vgg/tracking/spool.py", "import vgg.tracking.sender", "No circle"),
        ("vgg/training/step.py", "import vgg.tracking.tracker", "Rooms of vgg"),
        ("vgg/testing/posteriors.py", "import vgg.training.loop", "Rooms of vgg"),
        ("vgg/ensemble.py", "import vgg.evaluate", "Rooms of vgg"),
        ("vgg/stray.py", "", "Rooms of vgg"),
        ("pipelines/shards/manifest.py", "import pipelines.packing.plan", "Rooms of pipelines"),
        ("pipelines/shards/manifest.py", "import cluster.layout", "Packages"),
        ("cluster/layout.py", "import vgg.net.architecture", "Packages"),
        ("cluster/layout.py", "import cluster.trainer", "Modules of cluster"),
        # Indirect: the collectives know no Ray by themselves.
        ("cluster/collectives.py", "import cluster.connection", "Ray is reached by commands alone"),
        ("vgg/net/precision.py", "import pipelines.storage.folder", "A machine with torch alone"),
    ],
)
def test_an_import_against_a_contract_is_refused(checkout, file, line, contract):
    with (checkout / file).open("a") as source:
        source.write(f"\n\ndef _later() -> None:\n    {line or 'pass'}\n")
    assert any(name.startswith(contract) for name in broken_contracts(checkout))


def test_contracts_hold_as_they_are(checkout):
    assert broken_contracts(checkout) == []


def test_no_function_is_longer_than_a_screen():
    lengths = {
        f"{file.relative_to(ROOT)}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: length for name, length in lengths.items() if length > SCREEN} == {}


def test_no_module_is_longer_than_250_lines():
    assert [str(file) for file in SOURCES if len(file.read_text().splitlines()) > 250] == []


def test_no_grab_bags():
    assert [f for f in SOURCES if f.stem in ("utils", "util", "helpers", "common", "misc")] == []
