"""Runs the real entry point, `python -m vgg.train`, as a user does."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cluster.nodes import Node
from tests.conftest import ROOT

STEPS, CHECKPOINT_STEPS = 24, 5
FLAGS = [f"--train.steps={STEPS}", f"--train.checkpoint-steps={CHECKPOINT_STEPS}", "--layout.workers=2"]


def command(data: Path, out: Path | str, *flags: str) -> list[str]:
    """The digits recipe, short, on two workers."""
    return [sys.executable, "-m", "vgg.train", "digits", f"--data={data}", f"--out={out}", *FLAGS, *flags]


def environment(head: Node) -> dict[str, str]:
    """This environment, on that cluster, untracked."""
    env = head.client_environment()
    return {key: value for key, value in env.items() if not key.startswith("MLFLOW_")}


def run(command: list[str], env: dict[str, str], seconds: float = 600) -> subprocess.CompletedProcess[str]:
    """Run to the end; output and errors together."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )


def call(main: Callable[[], None], monkeypatch, capsys, *arguments: object) -> tuple[object, str, str]:
    """A command's exit code, output and errors, in this process."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    code: object = 0
    try:
        main()
    except SystemExit as stopped:
        code = stopped.code
    said = capsys.readouterr()
    return code, said.out, said.err


def result(out: Path) -> dict:
    """The result that a training left."""
    return json.loads((out / "result.json").read_text())
