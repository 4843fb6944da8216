"""The input pipeline's benchmarks: each loader gives what is asked of it, and the scripts run whole."""

import json
import subprocess
import sys
import tarfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from benchmarks import data, gpu_data, protocols, stall
from benchmarks.data import Data, compare, prepare, summary
from benchmarks.loaders import LOADERS
from tests.conftest import ROOT

PEERS = (
    "webdataset, PIL",
    "litdata, PIL",
    "MosaicML streaming, PIL",
    "SPDL, FFmpeg",
)  # not in the project's environment


@pytest.fixture(scope="module")
def few(shared_data, tmp_path_factory):
    """An archive of 24 photographs."""
    path = tmp_path_factory.mktemp("few") / "few.tar"
    with tarfile.open(shared_data / "imagenet-sample-250.tar") as whole, tarfile.open(path, "w") as archive:
        for member in [member for member in whole if member.isfile()][:24]:
            archive.addfile(member, whole.extractfile(member))
    return path


@pytest.fixture(scope="module")
def laid(few, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    assert prepare(few, folder, plain=True) == 24
    return folder


@pytest.mark.parametrize("name", [n for n in LOADERS if n not in PEERS and not n.startswith("limit")])
def test_every_loader_gives_crops_with_the_mean_taken_off(laid, name):
    # some fork their workers, and a fork of a process with threads can wait for ever for a lock that one held
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        images_BCHW = torch.from_numpy(fresh.submit(_three_batches, name, laid).result())
    assert images_BCHW.shape == (48, 3, 224, 224)
    assert images_BCHW.dtype == torch.float32
    assert images_BCHW.mean().abs() < 40
    assert 40 < images_BCHW.std() < 90
    assert images_BCHW.amin() >= -200
    assert images_BCHW.amax() <= 200


def _three_batches(name, laid):
    batches = LOADERS[name](laid, 16, 1)
    return torch.cat([next(batches).clone() for _ in range(3)]).numpy()


def test_ratios_are_of_the_same_round():
    def figures(rate):
        return {"images_per_s": rate, "cpu_ms_per_image": 1000 / rate, "peak_mb": 1.0}

    rounds = {
        "ours": [figures(rate) for rate in (100, 10, 40)],
        "other": [figures(rate) for rate in (50, 4, 10)],
        "absent": [],
    }
    ours, other = summary(rounds, cores=2)
    assert (ours["images_per_s"], other["images_per_s"]) == (40, 10)
    assert other["ours_is_times_as_fast"] == 2.5
    assert other["takes_times_our_cpu"] == pytest.approx(2.5)


def test_the_comparison_runs_and_skips_what_is_absent(shared_data):
    options = Data(
        shared_data / "imagenet-sample-250.tar", loaders=("ours", "webdataset, PIL"), rounds=1, seconds=0.5
    )
    found = compare(options)
    assert [row["loader"] for row in found["results"]] == ["ours"]
    assert found["results"][0]["images_per_s"] > 10
    assert "webdataset" in found["skipped"]["webdataset, PIL"]


@pytest.mark.parametrize("module", ["stall", "gpu_data"])
def test_the_other_scripts_run_whole(few, tmp_path, module):
    command = [sys.executable, "-m", f"benchmarks.{module}", f"--out={tmp_path / 'out.json'}", "--seconds=0.5"]
    command += ["--batch=16", f"--photographs={few}"]
    command += ["--cores", "1", "--shares", "0.5"] if module == "stall" else ["--threads=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "out.json").read_text())
    if module == "stall":
        freely, half = found["results"]
        assert freely["asked"] is None
        assert half["asked"] == pytest.approx(freely["images_per_s"] / 2)
        assert half["images_per_s"] < freely["images_per_s"]
    elif not torch.cuda.is_available():
        assert found["placements"]["cpu"]["against_cpu"]["most"] == 0
        assert found["placements"]["cpu"]["speed"]["images_per_s"] > 1


@pytest.mark.parametrize("command", [data, gpu_data, protocols, stall])
def test_absent_photographs_are_the_users_mistake(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark", "--photographs", "/nowhere.tar"])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: no photographs at /nowhere.tar: pass --photographs\n"
