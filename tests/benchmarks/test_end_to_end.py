"""The benchmark of whole trainings: one real one, and its arithmetic."""

import json

from benchmarks import end_to_end
from benchmarks.end_to_end import summary
from tests.entry_point import call


def test_a_training_is_measured(digits, tmp_path, monkeypatch, capsys):
    out = tmp_path / "found.json"
    words = [
        "digits",
        f"--data={digits}",
        "--variants",
        "cached batch",
        "--steps=2",
        "--rounds=1",
        "--flags=--layout.workers=1 --train.batch=64",
        f"--out={out}",
    ]
    code, said, err = call(end_to_end.main, monkeypatch, capsys, *words)
    assert code == 0, err
    found = json.loads(out.read_text())["trainings"]["cached batch"]
    assert found["images_per_s"] == found["least"] == found["most"] > 0
    assert 0 <= found["data_wait_share"] < 1
    assert "cached batch" in said


def test_ratios_are_of_pairs_within_a_round():
    rates = {"as it is": (1.0, 2.0, 4.0), "cached batch": (3.0, 4.0, 12.0)}
    rounds = {
        name: [{"images_per_s": rate, "data_wait_share": rate / 100} for rate in own]
        for name, own in rates.items()
    }
    found = summary(rounds)
    assert found["as it is"]["times_the_first"] == 1
    assert found["cached batch"] == {
        "images_per_s": 4.0,
        "least": 3.0,
        "most": 12.0,
        "times_the_first": 3.0,
        "data_wait_share": 0.04,
    }


def test_mistakes_are_named(tmp_path, monkeypatch, capsys):
    words = ["digits", f"--data={tmp_path}/none", "--rounds=1"]
    code, _, err = call(end_to_end.main, monkeypatch, capsys, *words, "--variants", "none")
    assert code == 2
    assert "--variants none: choose from as it is" in err
    code, _, err = call(end_to_end.main, monkeypatch, capsys, *words)
    assert code == 2
    assert f"{tmp_path}/none" in err
