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
    monkeypatch.setattr(train, "print_plan", lambda plan, layout: seen.append((plan, layout)))

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
    assert (plan.recipe.optim.name, plan.recipe.optim.lr) == ("sgd", 1e-4)
    assert plan.recipe.train.steps == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("a: [", "is no YAML"),
        ("- a", "has no line `recipe: NAME`"),
        ("optim: {lr: 1}", "has no line `recipe: NAME`"),
        ("recipe: digits\noptim: {lr: [1, 2]}", r"optim\.lr is neither a number nor a text"),
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
