"""The project as it is installed: its commands run from any folder."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
COMMANDS = [
    *(
        f"vgg.{name}"
        for name in (
            "train",
            "evaluate",
            "ensemble",
            "predict",
            "report",
            "track",
            "checkpoints",
            "study",
            "export",
            "localise",
            "transfer",
        )
    ),
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


def test_every_command_is_a_script():
    """vgg-NAME beside `python -m`."""
    modules = {target.partition(":")[0] for target in SCRIPTS.values()}
    assert modules == {command for command in COMMANDS if command != "cluster.local"}
    assert all(name == f"vgg-{target.partition(':')[0].rpartition('.')[2]}" for name, target in SCRIPTS.items())


def test_a_script_goes_by_its_own_name_and_completes(installed, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(installed)}

    def run(*arguments: str) -> str:
        command = [sys.executable, str(installed / "bin" / "vgg-pack"), *arguments]
        return subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)

    assert "usage: vgg-pack" in run("--help")
    (tmp_path / "completion").write_text(run("--tyro-print-completion", "bash"))
    typed = "source completion; COMP_WORDS=(vgg-pack --val); COMP_CWORD=1; _tyro_vgg_pack; echo ${COMPREPLY[@]}"
    shell = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    found = subprocess.check_output(["bash", "-c", typed], cwd=tmp_path, env=shell, text=True)
    assert found.split() == ["--val-share"]


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
