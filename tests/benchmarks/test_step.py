"""The step's benchmark, small, on the CPU."""

import json

import pytest
import torch

from benchmarks import step
from benchmarks.step import PEER, Step, measure, summary
from tests.entry_point import call
from vgg.net.architecture import Architecture


def test_nets_take_turns_and_are_written(tmp_path, monkeypatch, capsys):
    flags = ["--width=0.125", "--side=32", "--batch=4", "--rounds=2", "--seconds=0.01", "--device=cpu"]
    out = tmp_path / "step.json"
    code, said, err = call(step.main, monkeypatch, capsys, *flags, f"--out={out}", "--configurations", "A", "C")
    assert code == 0, err
    found = json.loads(out.read_text())
    assert set(found["nets"]) == {"A", "C"}
    assert set(found["nets"]["C"]) == {"ours, fp32", "ours, bf16"}
    assert all(row["least"] > 0 for nets in found["nets"].values() for row in nets.values())
    assert "ours, bf16" in said


def test_torchvisions_net_is_beside_ours_where_it_has_one():
    options = Step(batch=1, rounds=1, seconds=0.0)
    assert list(measure(Architecture("A", 1000, 224), options)) == [PEER, "ours, fp32", "ours, bf16"]


def test_ratios_are_of_pairs_within_a_round():
    rates = {PEER: [1.0, 2.0, 4.0], "ours, bf16": [3.0, 4.0, 12.0]}
    found = summary(rates, flop_per_image=2.0, flop_per_s={torch.float32: 16.0, torch.bfloat16: 32.0})
    found, peer = found["ours, bf16"], found[PEER]
    assert found["times_torchvision"] == 3.0
    assert (found["images_per_s"], found["least"], found["most"]) == (4.0, 3.0, 12.0)
    assert found["share_of_matrix_rate"] == pytest.approx(4.0 * 2.0 / 32.0)
    assert peer["share_of_matrix_rate"] == pytest.approx(2.0 * 2.0 / 16.0)


def test_a_configuration_that_is_none_is_named(monkeypatch, capsys):
    code, _, err = call(step.main, monkeypatch, capsys, "--configurations", "F")
    assert code == 2
    assert "--configurations F: choose from A" in err
