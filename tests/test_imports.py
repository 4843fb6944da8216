"""Imports go one way: vgg -> {cluster, pipelines}; these two know neither each other nor vgg."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("vgg", "cluster", "pipelines", "demo", "benchmarks")
MODULES = sorted(file for package in PACKAGES for file in (ROOT / package).glob("*.py"))


def imported(file: Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            module = node.module or ""
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def tops(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(file)}


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_direction(file):
    allowed = {
        "vgg": {"vgg", "cluster", "pipelines"},
        "demo": {"demo", "cluster"},
        "benchmarks": {"vgg", "pipelines"},
    }
    mine = file.parent.name
    assert tops(file) & set(PACKAGES) <= allowed.get(mine, set()) | {mine}


def test_light_modules():
    """What a machine with torch alone can import, and what a command line needs before it starts anything."""
    heavy = {"ray", "nvidia", "mlflow", "pyarrow", "pipelines", "cluster"}
    for name in ("model", "initialise", "recipe", "schedule", "step", "cost"):
        assert not tops(ROOT / "vgg" / f"{name}.py") & heavy, name


def test_only_two_modules_compose_all_three():
    """vgg/train.py starts trainings, vgg/evaluate.py evaluations; the loop is given its cluster."""
    starters = [f.name for f in MODULES if f.parent.name == "vgg" and "cluster.trainer" in imported(f)]
    assert set(starters) <= {"train.py", "evaluate.py"}


def test_no_grab_bags():
    assert not [file for file in MODULES if file.stem in ("utils", "util", "helpers", "common", "misc")]
