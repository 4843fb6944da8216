"""A result names the software that made it, with and without git."""

import shutil
import subprocess

import pytest
import torch

from tests.conftest import ROOT
from vgg.tracking import software as module
from vgg.tracking.software import software


def test_version_commit_tree_and_libraries_are_named():
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    found = software()
    assert found["commit"] == (commit.stdout.strip() or "unknown")
    assert found["tree"] in ("clean", "changed", "unknown")
    assert found["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert found["version"]


@pytest.mark.parametrize("changed", [False, True])
def test_the_copy_that_a_submitted_job_runs_in(monkeypatch, tmp_path, changed):
    """Without .git, it names the commit of the installed checkout, if it is a copy of that."""
    here = software.__wrapped__()
    for package in module.PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package)
    if changed:
        (tmp_path / "vgg" / "train.py").write_text("")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    found = software.__wrapped__()
    expected = ("unknown", "unknown") if changed else (here["commit"], here["tree"])
    assert (found["commit"], found["tree"]) == expected


def test_without_git_the_rest_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "ROOT", tmp_path)
    found = software.__wrapped__()
    assert (found["commit"], found["tree"]) == ("unknown", "unknown")
    assert found["torch"] != "unknown"
