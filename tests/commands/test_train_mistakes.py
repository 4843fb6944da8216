"""A user's mistakes: told by name, exit code 2, nothing started, nothing half-written."""

import json
import re
import shutil
from dataclasses import asdict

import pytest
import torch

from cluster.layout import Worker
from pipelines.shards.manifest import read_manifest
from pipelines.storage.folder import Folder
from tests.processes import job
from vgg import train
from vgg.net.architecture import Architecture
from vgg.net.initialise import initialise
from vgg.net.module import VGG
from vgg.recipes.registry import RECIPES
from vgg.recipes.schema import Recipe
from vgg.tracking.observers import training_observers
from vgg.training.loop import train as train_on_worker
from vgg.training.plan import TrainingPlan
from vgg.training.run_folder import claim_folder
from vgg.weights import checkpoint, retention
from vgg.weights.state import model_state


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command line; the exit code and what it said on stderr."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["vgg.train", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            train.main()
        said = capsys.readouterr()
        return ended.value.code, " ".join((said.out + said.err).split())

    return run


def test_unknown_recipe(call):
    code, said = call("paper-z")
    assert code == 2
    assert "paper-z" in said
    assert "paper-a" in said


def test_typo_in_a_flag_gets_a_suggestion(call):
    code, said = call("digits", "--optim.lrr", "0.1")
    assert code == 2
    assert "--optim.lr" in said.replace("--optim.lrr", "")


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--model.side", "100"], "--model.side 100 must be a multiple of 32"),
        (["--model.width", "0"], "--model.width"),
        (["--input.min-scale", "16"], "--input.min-scale must be at least the crop, 32"),
        (["--input.max-scale", "31"], "--input.max-scale must be at least --input.min-scale"),
        (["--input.test-scale", "31"], "--input.test-scale"),
        (["--optim.lr", "-1"], "--optim.lr must be positive"),
        (["--train.batch", "0"], "--train.batch"),
        (["--train.steps", "0"], "--train.steps"),
        (["--model.dropout", "1"], "--model.dropout"),
        (["--layout.workers", "257"], "--layout.workers must be from 1 to the batch of 256"),
        (["--layout.workers", "9", "--layout.reduce", "fixed-order"], "--layout.reduce must be ddp"),
        (["--layout.workers", "4..2"], "--layout.workers 4..2 must be a number, or FEWEST..MOST"),
        (["--layout.workers", "2..257"], "--layout.workers must be from 1 to the batch of 256"),
        (["--layout.micro-batch", "0"], "--layout.micro-batch"),
        (["--seed", "-1"], "--seed -1"),
        (["--model.initialisation", "shallower"], "--model.start-from is missing"),
        (["--model.initialisation", "shallower-glorot"], "--model.start-from is missing"),
        (["--model.start-from", "x", "--model.initialisation", "normal"], "choose checkpoint (every layer)"),
        (["--model.freeze", "convolutions"], "--model.freeze"),
        (["--model.take-architecture"], "--model.take-architecture"),
        (["--model.classes", "7"], "pass --model.classes 10"),
    ],
)
def test_settings_that_cannot_work(call, digits, tmp_path, flags, wanted):
    code, said = call("digits", "--data", digits, "--out", tmp_path / "out", *flags)
    assert code == 2
    assert wanted in said
    assert not (tmp_path / "out").exists()


def test_missing_data(call, tmp_path):
    code, said = call("digits", "--data", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert code == 2
    assert "nowhere" in said
    assert "pipelines.pack" in said
    code, said = call("digits", "--out", tmp_path / "out")
    assert code == 2
    assert "--data is missing" in said
    assert not (tmp_path / "out").exists()


def test_missing_out(call, digits):
    code, said = call("digits", "--data", digits)
    assert code == 2
    assert "--out is missing" in said


def test_out_that_cannot_be_written(call, digits, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, said = call("digits", "--data", digits, "--out", tmp_path / "file" / "out")
    assert code == 2
    assert "cannot be written" in said


def test_damaged_manifest(call, digits, tmp_path):
    broken = tmp_path / "data"
    shutil.copytree(digits, broken)
    text = (broken / "manifest.json").read_text()
    (broken / "manifest.json").write_text(text[: len(text) // 2])
    code, said = call("digits", "--data", broken, "--out", tmp_path / "out")
    assert code == 2
    assert "manifest.json is damaged" in said


@pytest.mark.parametrize("flags", [["--seed", "1"], ["--optim.lr", "0.5"], ["--model.configuration", "B"]])
def test_a_folder_of_another_training(call, digits, tmp_path, flags):
    out = tmp_path / "out"
    plan = TrainingPlan.resolve("digits", RECIPES["digits"][1], 0, str(digits), read_manifest(digits))
    uid = claim_folder(Folder(str(out)), plan)
    before = (out / "run.json").read_bytes()
    code, said = call("digits", "--data", digits, "--out", out, *flags)
    assert code == 2
    assert "holds another training" in said
    assert flags[0].removeprefix("--") in said
    assert (out / "run.json").read_bytes() == before
    assert json.loads(before)["uid"] == uid


def test_dry_run_prints_and_starts_nothing(monkeypatch, capsys, tmp_path):
    """FLOP of a step of D at batch 256, from the paper's 92.65 GFLOP an image."""
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["vgg.train", "paper-d", "--dry-run", "--out", str(out), "--optim.lr=1"])
    train.main()
    said = capsys.readouterr().out
    assert "138,357,544" in said
    assert f"{92.648177664e9 * 256:.3e} FLOP" in said
    assert "(recipe: 0.01)" in said
    assert "MiB" in said
    assert not out.exists()


def test_the_largest_micro_batch_is_asked_of_a_dry_run(monkeypatch, capsys):
    """VGG-16 at 224 pixels: 13.5 M outputs of convolutions and 1.5 M of poolings with their places, 73 MB an
    image; weights, gradients and momentum 1.66 GB."""
    words = ["vgg.train", "paper-d", "--memory-gib=16"]
    monkeypatch.setattr("sys.argv", [*words, "--dry-run"])
    train.main()
    told = re.search(r"--layout.micro-batch (\d+)\s+is", capsys.readouterr().out)
    assert told is not None
    assert 208 < int(told[1]) < 216
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stopped:
        train.main()
    assert stopped.value.code == 2
    assert "--memory-gib must be positive, with --dry-run" in capsys.readouterr().err


@pytest.fixture
def start(digits, tmp_path):
    """A checkpoint of the digits' net, never trained."""
    net = VGG(Architecture("A", 10, 32, 0.25))
    initialise(net, "glorot", 0)
    metadata = {
        "recipe_name": "digits",
        "recipe": asdict(RECIPES["digits"][1]),
        "seed": 0,
        "data": "",
        "classes": read_manifest(digits).class_names,
        "mean_rgb": [1, 2, 3],
    }
    state = checkpoint.Checkpoint(1, model_state(net), {}, torch.zeros(1), metadata)
    retention.write(Folder(str(tmp_path / "a")), state, best=True)
    return tmp_path / "a"


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--model.configuration=B"], "conv1_2.weight is missing"),
        (["--model.width=0.5"], "conv1_1.weight has shape"),
        (["--model.freeze=conv9_9"], "'conv9_9' is no layer of this net; known: convolutions, all-but-last"),
        (["--model.freeze=conv1_1,conv2_1,conv3_1,conv3_2,conv4_1,conv4_2,conv5_1,conv5_2,fc6,fc7,fc8"],
         "leaves no layer to train"),
        (["--optim.body-lr-factor=0"], "--optim.body-lr-factor"),
    ],
)  # fmt: skip
def test_a_start_that_does_not_fit_is_told_before_anything_starts(call, digits, start, tmp_path, flags, wanted):
    out = tmp_path / "out"
    code, said = call("digits", f"--data={digits}", f"--out={out}", f"--model.start-from={start}", *flags)
    assert code == 2
    assert wanted in said
    assert not out.exists()


def test_a_cluster_that_does_not_answer(call, digits, tmp_path, monkeypatch):
    """Said at once: Ray itself goes on trying for minutes."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    code, said = call("digits", f"--data={digits}", f"--out={tmp_path / 'run'}")
    assert code == 2
    assert "no Ray cluster answers at 127.0.0.1:1" in said


def test_a_bug_is_not_taken_for_the_users_mistake(call, digits, tmp_path, monkeypatch):
    """Any ValueError but a UserError keeps its traceback."""
    monkeypatch.setattr(Recipe, "total_steps", lambda *_: int("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        call("digits", f"--data={digits}", f"--out={tmp_path / 'run'}")


def test_another_data_set_on_a_worker(digits, tmp_path):
    """What the command read is not what lies under the same name on the worker's node."""
    other = tmp_path / "data"
    shutil.copytree(digits, other)
    asked = job(other, tmp_path / "out")
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "source": "another"}))
    outcome = train_on_worker(Worker(0, 1, 0, torch.device("cpu"), 1), asked, training_observers)
    assert outcome.users_mistake
    assert f"--data {other} is another data set on this node" in (outcome.problem or "")
    assert not (tmp_path / "out").exists()
