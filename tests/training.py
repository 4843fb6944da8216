"""Runs the real entry point, `python -m vgg.train`, as a user does."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

SMALL = [
    "--model.width=0.125",
    "--train.batch=24",
    "--train.log-steps=5",
    "--train.checkpoint-steps=4",
    "--schedule.patience=1",
]
"""Flags that make the digits recipe small: what is tested does not depend on the size."""


def command(data: Path, out: Path, *flags: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "vgg.train",
        "digits",
        f"--data={data}",
        f"--out={out}",
        *SMALL,
        *flags,
    ]


def environment(cluster, **more: str) -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return {**env, "RAY_ADDRESS": cluster.head.address, **more}


def train(cluster, data: Path, out: Path, *flags: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Train to the end; output and errors together."""
    return subprocess.run(
        command(data, out, *flags),
        cwd=ROOT,
        env=environment(cluster, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )


def result(out: Path) -> dict:
    return json.loads((out / "result.json").read_text())
