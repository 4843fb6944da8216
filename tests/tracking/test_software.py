"""A result names the software that made it, with and without git."""

import subprocess

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


def test_without_git_the_rest_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "ROOT", tmp_path)
    found = software.__wrapped__()
    assert (found["commit"], found["tree"]) == ("unknown", "unknown")
    assert found["torch"] != "unknown"
