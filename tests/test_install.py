"""The project as it is installed: its commands run from any folder."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

COMMANDS = [
    *(f"vgg.{name}" for name in ("train", "evaluate", "ensemble", "predict", "report", "track")),
    *(f"pipelines.{name}" for name in ("pack", "inspect", "stage")),
    "cluster.local",
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """What `pip install .` puts into an environment, in a folder of its own."""
    folder, source = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source")
    tracked = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True)
    for name in tracked.splitlines():
        wanted = name.partition("/")[0] in ("cli", "cluster", "pipelines", "vgg") or "/" not in name
        if wanted and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, f"--target={folder}", str(source)], check=True)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs_from_any_folder(installed, tmp_path, command):
    done = subprocess.run(
        [sys.executable, "-m", command, "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"python -m {command}" in done.stdout


def test_what_is_not_python_is_installed_too(installed):
    """Templates that a page is made of, for one."""
    kept = {".py", ".typed"}
    wanted = {
        file.relative_to(ROOT)
        for package in ("cli", "cluster", "pipelines", "vgg")
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file.suffix not in kept
    }
    assert {file for file in wanted if not (installed / file).is_file()} == set()
