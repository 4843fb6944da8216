"""The GPU benchmark, run whole on the CPU at a small size."""

import json
import subprocess

import pytest
import torch

from tests.conftest import ROOT


def run(*flags):
    command = ["bash", "benchmarks/gpu.sh", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)


def test_small_run_leaves_every_section(tmp_path):
    out = tmp_path / "r.json"
    modes = ["eager contiguous", "eager channels_last"]
    small = ["--device=cpu", "--side=32", "--batch=8", "--width=0.125", f"--out={out}"]
    done = run(*small, "--configurations", "A-LRN", "C", "--modes", *modes)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["skipped"] == []
    assert set(found["throughput"]) == {f"{name} {mode}" for mode in modes for name in ("A-LRN", "C")}
    for figures in found["throughput"].values():
        assert figures["images_per_s"] * figures["ms_per_step"] == pytest.approx(8000)
    for key, figures in found["numerics"].items():
        bound = 1e-5 if "float32 against" in key and "bfloat16" not in key else 0.1
        assert figures["scores_relative"] <= bound, key
    assert found["numerics"]["C bfloat16 against CPU float32"]["scores_relative"] > 0
    assert found["machine"]["torch"] == torch.__version__


def test_says_what_it_had_no_time_for(tmp_path):
    out = tmp_path / "r.json"
    small = ["--device=cpu", "--side=32", "--batch=8", "--width=0.125", f"--out={out}", "--seconds=0"]
    done = run(*small, "--configurations", "A", "--modes", "eager contiguous")
    assert done.returncode == 0, done.stderr
    assert [entry["what"] for entry in json.loads(out.read_text())["skipped"]] == [
        "numerics of A",
        "throughput of A, eager contiguous",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so():
    done = run()
    assert done.returncode == 2
    assert "no GPU here" in done.stdout
