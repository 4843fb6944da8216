"""What the demo says at its end."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from scipy.stats import binomtest

from demo.__main__ import Demo, command_of, show_next
from demo.card import card

RESULT = {
    "best": {"top1": 0.9, "seen": 250, "step": 96, "majority": 0.104},
    "steps": 240,
    "images_per_s": 1234.5,
    "data_wait_share": 0.02,
    "settings": {"model.configuration": "A"},
}


def shown(result, data="digits") -> str:
    console = Console(file=StringIO(), width=120)
    console.print(card(result, data, 61.2))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_accuracy_has_its_interval():
    interval = binomtest(225, 250).proportion_ci(0.95, "wilson")
    assert f"90.00% (95 %: {100 * interval.low:.2f} to {100 * interval.high:.2f}) of 250 images" in shown(
        RESULT
    )


def test_a_training_that_had_only_a_validation_left_has_no_speed():
    assert "1,234 images/s, 2% of the time" in shown(RESULT)
    assert "images/s" not in shown({**RESULT, "images_per_s": None, "data_wait_share": None})


def test_a_folder_is_called_as_it_is():
    assert "VGG A on /my [b]photos" in shown(RESULT, "/my [b]photos")


@pytest.mark.parametrize(
    ("options", "command"),
    [
        (Demo(), "make demo"),
        (Demo(data="/my photos"), "make demo 'DATA=/my photos'"),
        (Demo(data="/photos", workers=3), "python -m demo --data /photos --workers 3"),
    ],
)
def test_the_command_that_goes_on(monkeypatch, options, command):
    monkeypatch.setattr("sys.argv", ["demo", "--data", "/photos", "--workers", "3"])
    assert command_of(options) == command


def test_the_next_commands_name_the_run(capsys):
    show_next(Path("/a b/runs/photos-2"), "http://127.0.0.1:5000", Path("/a b"))
    predict, report, _ = capsys.readouterr().out.splitlines()
    assert predict.endswith("python -m vgg.predict IMAGE --net '/a b/runs/photos-2'")
    assert report.endswith("-m vgg.report --track http://127.0.0.1:5000 --out '/a b/report'")
