"""A training's settings in a file: what is written is what is read, and every mistake is named."""

import json

import pytest
import yaml

from cli.errors import UserError
from vgg import train
from vgg.training.config_file import read_flags, with_config

CHANGES = ["--optim.name=adam", "--train.steps=7", "--train.compile", "--layout.workers=2", "--model.side=64"]


@pytest.fixture
def plans(monkeypatch):
    """The plans and layouts of the dry runs that were made."""
    seen = []
    monkeypatch.setattr(train, "print_plan", lambda plan, layout, _: seen.append((plan, layout)))

    def dry_run(*arguments):
        monkeypatch.setattr("sys.argv", ["vgg.train", *map(str, arguments), "--dry-run"])
        train.main()
        return seen[-1]

    return dry_run


def test_a_saved_file_makes_the_same_training(plans, digits, tmp_path):
    file = tmp_path / "run.yaml"
    plan, layout = plans("digits", f"--data={digits}", "--seed=3", *CHANGES, f"--save-config={file}")
    again, again_layout = plans("--config", file)
    assert json.dumps(again.identity) == json.dumps(plan.identity)
    assert again_layout == layout
    assert again.difference == plan.difference
    assert plan.recipe.train.compile
    assert plan.recipe.optim.lr == 1e-4
    assert (plan.recipe.model.side, plan.recipe.input.max_scale) == (64, 72)
    assert yaml.safe_load(file.read_text())["optim"]["lr"] == 1e-4


def test_flags_beside_it_override_it(plans, digits, tmp_path):
    file = tmp_path / "run.yaml"
    plans("digits", f"--data={digits}", *CHANGES, f"--save-config={file}")
    plan, _ = plans("digits", f"--config={file}", "--train.no-compile", "--optim.name", "sgd")
    assert not plan.recipe.train.compile
    assert (plan.recipe.optim.name, plan.recipe.optim.lr) == ("sgd", 0.01)  # not the rate of the file's adam
    assert plan.recipe.train.steps == 7


@pytest.mark.parametrize(
    ("file", "flags", "rate", "scales"),
    [
        ("optim: {name: adam, lr: 0.0003}", [], 3e-4, (32, 36, 32)),
        ("optim: {name: adam}", [], 1e-4, (32, 36, 32)),
        ("optim: {name: adam, lr: 0.0003}", ["--optim.momentum=0.8"], 3e-4, (32, 36, 32)),
        ("optim: {lr: 0.02}", ["--optim.name=adam"], 1e-4, (32, 36, 32)),
        ("model: {side: 64}", [], 0.01, (64, 72, 64)),
        ("model: {side: 64}\ninput: {max_scale: 100}", [], 0.01, (64, 100, 64)),
        ("model: {side: 64}\ninput: {max_scale: 100}", ["--model.side=32"], 0.01, (32, 50, 32)),
        ("input: {max-scale: 50}", ["--model.side=64", "--input.min_scale=66"], 0.01, (66, 100, 64)),
    ],
)
def test_what_is_short_for_other_settings(plans, digits, tmp_path, file, flags, rate, scales):
    """In a file as among flags, and of flags in proportion to the file."""
    (tmp_path / "run.yaml").write_text(f"recipe: digits\n{file}")
    plan, _ = plans(f"--config={tmp_path / 'run.yaml'}", f"--data={digits}", *flags)
    crop = plan.recipe.input
    assert plan.recipe.optim.lr == rate
    assert (crop.min_scale, crop.max_scale, crop.test_scale) == scales


@pytest.mark.parametrize(("flag", "asked"), [("4", "4"), ("3..6", "3..6")])
def test_workers_in_place_of_a_files_range(plans, digits, tmp_path, flag, asked):
    (tmp_path / "run.yaml").write_text("recipe: digits\nlayout: {workers: 2..8}")
    assert plans(f"--config={tmp_path / 'run.yaml'}", f"--data={digits}")[1].asked_workers == "2..8"
    _, layout = plans(f"--config={tmp_path / 'run.yaml'}", f"--data={digits}", f"--layout.workers={flag}")
    assert layout.asked_workers == asked


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("a: [", "is no YAML"),
        ("- a", "has no line `recipe: NAME`"),
        ("optim: {lr: 1}", "has no line `recipe: NAME`"),
        ("recipe: digits\noptim: {lr: [1, 2]}", r"optim\.lr is neither a number nor a text"),
        ("recipe: digits\ntrain: {steps: 7}\ntrain: {batch: 64}", "says train twice"),
        ("recipe: digits\noptim: {lr: 1}\noptim.lr: 2", r"says optim\.lr twice"),
        ("recipe: digits\ninput: {max_scale: 40, max-scale: 50}", r"says input\.max_scale twice"),
        ("recipe: digits\nexperiment: 2026-13-01", "is no YAML: month must be in"),
        ("recipe: digits\noptim: &a {lr: *a}", "is no YAML: .*recursion"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path, text, message):
    file = tmp_path / "run.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=rf"--config {file}.* ?{message}"):
        with_config(["--config", str(file)])


def test_another_recipe_than_the_files(tmp_path):
    (tmp_path / "run.yaml").write_text("recipe: digits")
    with pytest.raises(UserError, match="is of recipe digits, the command names paper-a"):
        with_config(["paper-a", f"--config={tmp_path / 'run.yaml'}"])


def test_a_secret_in_a_file_is_refused(tmp_path):
    (tmp_path / "run.yaml").write_text("recipe: digits\ndata: s3://key:secret@bucket/data")
    with pytest.raises(UserError) as told:
        read_flags(str(tmp_path / "run.yaml"))
    assert "secret@" not in str(told.value)


@pytest.mark.parametrize(
    ("line", "flag"), [("optim: {lrr: 1}", "--optim.lrr"), ("optim: {lr: fast}", "--optim.lr")]
)
def test_a_setting_that_is_none(plans, tmp_path, capsys, line, flag):
    (tmp_path / "run.yaml").write_text(f"recipe: digits\n{line}")
    with pytest.raises(SystemExit) as ended:
        plans(f"--config={tmp_path / 'run.yaml'}")
    assert ended.value.code == 2
    assert flag in capsys.readouterr().err
