"""Ctrl-C of the demo's training, a real job: its step is saved, and a line says where and how to go on."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict

from cluster.nodes import Node
from demo.runs import run_folder
from tests.conftest import ROOT

SCRIPT = """
import json, signal, sys
from pathlib import Path
from cluster.nodes import Node
from demo.__main__ import Demo, training
from demo.training import train
signal.signal(signal.SIGINT, signal.default_int_handler)
data, out = map(Path, sys.argv[2:])
node = Node(**json.loads(sys.argv[1]))
train(training(Demo(recipe="digits"), data, out, ""), f"vgg-{out.parent.name}", out, node, "make demo")
"""


def start(head: Node, *folders) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(asdict(head)), *map(str, folders)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(ray_cluster, digits, tmp_path):
    out = tmp_path / "digits-1"
    with start(ray_cluster.head, digits, out) as demo:
        assert demo.stdout is not None
        while " step 1/" not in (line := demo.stdout.readline()):
            assert line, "the training ended before it could be stopped"
        os.killpg(demo.pid, signal.SIGINT)  # as a terminal does
        began = time.monotonic()
        lines = demo.stdout.read().splitlines()
        seconds = time.monotonic() - began
    assert demo.returncode == 130, lines
    of_demo = [line for line in lines if "RayTrainWorker" not in line]  # its log goes on until the signal
    step = int(json.loads((out / "checkpoints" / "index.json").read_text())["last"].removeprefix("step-"))
    assert of_demo == [
        "stopping: the training saves the step that it is at",
        f"stopped: step {step} is kept in {out}; `make demo` goes on from there",
    ]
    assert seconds < 60
    assert run_folder(tmp_path, "digits", digits)[0] == out


def test_ctrl_c_before_the_job_is_there(ray_cluster, digits, tmp_path):
    out = tmp_path / "digits-1"
    with start(ray_cluster.head, digits, out) as demo:
        assert demo.stdout is not None
        assert "ray job submit" in demo.stdout.readline()  # which takes a second to import Ray
        os.killpg(demo.pid, signal.SIGINT)
        said = demo.stdout.read()
    assert demo.returncode == 130, said
    assert said.endswith(f"\nstopped: no step had been made in {out}; `make demo` goes on from there\n")
