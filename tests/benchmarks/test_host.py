"""The host's benchmark: seconds are counted once, and a real training's updates are told apart by part."""

import json
import time

import pytest

from benchmarks import host
from benchmarks.host import summary
from benchmarks.host_worker import CPU, UPDATE, Clock
from tests.entry_point import call

TRAINING = "large checkpoints"


def test_each_second_counts_once():
    clock = Clock()
    with clock.part("validation"):
        time.sleep(0.02)
        with clock.part("data wait"):  # a batch of the validation
            time.sleep(0.02)
        with clock.part("observers"):
            time.sleep(0.03)
    with clock.part("step"):
        time.sleep(0.01)
    with clock.part("step"):
        pass
    first, second = clock.updates
    assert set(first) == {"rest", "validation", "observers", "step", UPDATE, CPU}
    assert sum(first.values()) - first[CPU] == pytest.approx(2 * first[UPDATE])
    assert first[CPU] < 0.05, "a sleep is none"
    assert first["observers"] >= 0.03
    assert 0.04 <= first["validation"] <= first[UPDATE] - 0.04
    assert second[UPDATE] < 0.01


def test_a_stall_is_an_update_without_its_validation():
    rounds = [[{UPDATE: 0.010, "step": 0.004}, {UPDATE: 0.5, "validation": 0.47}], [{UPDATE: 0.02}]]
    found = summary(rounds)
    assert found[UPDATE]["longest"] == pytest.approx([500.0, 20.0])
    assert found["stall"]["longest"] == pytest.approx([30.0, 20.0])
    assert found["stall"]["median"] == pytest.approx(20.0)
    assert found["step"]["mean"] == pytest.approx(4 / 3)
    assert "masks" not in found


def test_a_training_is_measured(tmp_path, monkeypatch, capsys):
    out = tmp_path / "host.json"
    flags = [
        "--updates=44",
        "--rounds=1",
        "--ballast-mb=1",
        "--large-updates=25",
        f"--out={out}",
        "--trainings",
        "bare",
        TRAINING,
    ]
    code, said, err = call(host.main, monkeypatch, capsys, *flags)
    assert code == 0, err
    trainings = json.loads(out.read_text())["trainings"]
    assert set(trainings["bare"]["here"]) == {UPDATE, CPU, "step", "rest", "stall"}
    assert trainings["bare"]["here"]["step"]["median"] > 0
    found = trainings[TRAINING]["here"]
    assert {"data wait", "input", "masks", "step", "checkpoint"} <= set(found)
    assert found["checkpoint"]["longest"][0] > found["checkpoint"]["median"] == 0.0
    assert TRAINING in said


def test_a_training_that_is_none_is_named(monkeypatch, capsys):
    code, _, err = call(host.main, monkeypatch, capsys, "--trainings", "fast")
    assert code == 2
    assert "--trainings fast: choose from bare, plain" in err
