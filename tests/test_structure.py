"""The structure of the project is held by contracts and limits; a change that breaks them is refused."""

import ast
import os
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
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=checkout,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    broken = [line.partition(" BROKEN")[0] for line in done.stdout.splitlines() if " BROKEN" in line]
    assert (done.returncode == 0) == (not broken), done.stdout + done.stderr
    return broken


@pytest.mark.parametrize(
    "against",
    [
        {"No circle": ("vgg/net/architecture.py", "import vgg.net.module")},
        {"No circle": ("vgg/tracking/spool.py", "import vgg.tracking.sender")},
        {
            "Packages:": ("pipelines/shards/manifest.py", "import cluster.layout"),
            "Rooms of": ("vgg/training/step.py", "import vgg.tracking.server"),
            "Modules of": ("cluster/layout.py", "import cluster.capacity"),
            # Indirect: the module itself knows no Ray.
            "Ray is": ("pipelines/loading/draw.py", "import cluster.connection"),
            "Training and": ("vgg/testing/protocols.py", "import vgg.weights.open_net"),
            "A machine": ("vgg/net/precision.py", "import pipelines.storage.folder"),
        },
        {"Rooms of": ("vgg/ensemble.py", "import vgg.evaluate")},
        {"Rooms of": ("vgg/stray.py", "pass")},
        {"Rooms of": ("pipelines/shards/manifest.py", "import pipelines.packing.plan")},
        {"Packages:": ("cluster/layout.py", "import vgg.pictures.style")},
    ],
)
def test_an_import_against_a_contract_is_refused(checkout, against):
    for file, line in against.values():
        with (checkout / file).open("a") as source:
            source.write(f"\n\ndef _later() -> None:\n    {line}\n")
    broken = broken_contracts(checkout)
    for contract in against:
        assert any(name.startswith(contract) for name in broken), contract


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
