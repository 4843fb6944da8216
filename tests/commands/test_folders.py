"""Where a command may write: told in one line, exit code 2, before anything starts; nothing is left behind."""

import json
import os
import re
import shutil
import sys
from dataclasses import asdict

import pytest
import torch

from cli.errors import UserError
from demo.__main__ import packed_name
from pipelines import pack
from pipelines.shards.manifest import read_manifest
from pipelines.storage.apart import require_apart
from pipelines.storage.folder import Folder
from tests.photos import picture
from vgg import ensemble, evaluate, train
from vgg.net.architecture import Architecture
from vgg.net.initialise import initialise
from vgg.net.module import VGG
from vgg.recipes.registry import RECIPES
from vgg.training.plan import TrainingPlan
from vgg.training.run_folder import claim_folder, claimed_folder
from vgg.weights import checkpoint, retention
from vgg.weights.state import model_state


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a command line; the exit code and what it said."""

    def run(command, *arguments):
        monkeypatch.setattr(sys, "argv", [command.__name__, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            command.main()
        return ended.value.code, capsys.readouterr().err

    return run


def one_line(said: str) -> bool:
    return said.startswith("error: ") and said.count("\n") == 1


@pytest.fixture
def plan(digits):
    return TrainingPlan.resolve("digits", RECIPES["digits"][1], 0, str(digits), read_manifest(digits))


@pytest.fixture
def trained(digits, tmp_path):
    """A run's folder with a checkpoint of the digits' net, untrained."""
    settings = asdict(RECIPES["digits"][1])
    manifest = read_manifest(digits)
    net = VGG(RECIPES["digits"][1].architecture(10))
    initialise(net, "glorot", 0)
    metadata = {
        "recipe_name": "digits",
        "recipe": settings,
        "seed": 0,
        "data": "",
        "classes": manifest.class_names,
        "mean_rgb": manifest.mean_rgb,
    }
    state = checkpoint.Checkpoint(1, model_state(net), {}, torch.zeros(1), metadata)
    retention.write(Folder(str(tmp_path / "trained")), state, best=True)
    return tmp_path / "trained"


@pytest.mark.parametrize("name", ["x" * 300, "file/out", "/proc/out", "s3://", "s3:///x", "foo://x"])
@pytest.mark.parametrize("command", [train, evaluate])
def test_places_that_cannot_be_written(call, digits, trained, tmp_path, command, name):
    (tmp_path / "file").write_text("in the way")
    out = name if ":" in name else tmp_path / name
    before = sorted(tmp_path.rglob("*"))
    what = ["digits"] if command is train else [trained]
    code, said = call(command, *what, "--data", digits, "--out", out)
    assert code == 2
    assert one_line(said)
    assert "--out" in said
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("way", ["same", "slash", "link", "inside", "dots"])
@pytest.mark.parametrize("command", [train, evaluate])
def test_results_are_not_written_into_the_data(call, digits, trained, tmp_path, command, way):
    (tmp_path / "link").symlink_to(digits)
    out = {
        "same": digits,
        "slash": f"{digits}/",
        "link": tmp_path / "link",
        "inside": tmp_path / "link" / "runs" / "d",
        "dots": digits / ".." / digits.name,
    }[way]
    before = sorted(digits.rglob("*"))
    what = ["digits"] if command is train else [trained]
    code, said = call(command, *what, "--data", digits, "--out", out)
    assert code == 2
    assert one_line(said)
    assert "choose a folder of its own" in said
    assert sorted(digits.rglob("*")) == before


@pytest.mark.parametrize(
    ("path", "reason"),
    [("~/runs", "--out ~/runs: no shell has put"), ("/x/~/runs", "put"), (os.fsdecode(b"caf\xe9"), "no UTF-8")],
)
def test_a_folder_that_is_not_the_one_meant(path, reason):
    with pytest.raises(UserError, match=reason):
        Folder(path, "--out")


def test_a_demo_packs_folders_of_one_name_apart():
    names = [packed_name(source) for source in ("digits", "/a/my photos", "/b/my photos", "/b/my-photos", "/")]
    assert len(set(names)) == 5
    assert names[0] == "digits"
    assert all(re.fullmatch(r"[A-Za-z0-9-]+", name) for name in names)
    assert packed_name("/b/../b/my photos") == names[2]


def test_folders_of_two_names_in_one_another(tmp_path):
    outer, inner = Folder(str(tmp_path)), Folder(str(tmp_path / "a"))
    require_apart(outer, inner)
    with pytest.raises(UserError, match="lies in"):
        require_apart(outer, inner, either_way=True)
    require_apart(Folder(str(tmp_path / "ab")), inner, either_way=True)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", "7", '{"uid": 1, "identity": {}}', '{"identity": {}}']
)
def test_a_claim_that_is_none(plan, tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json is (damaged|not JSON)"):
        claim_folder(Folder(str(tmp_path)), plan)
    assert (tmp_path / "run.json").read_text() == text


def test_formats_of_another_version(plan, trained, tmp_path):
    claim_folder(Folder(str(tmp_path / "run")), plan)
    claim = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**claim, "format": 2}))
    with pytest.raises(UserError, match="has format 2, this version reads 1"):
        claim_folder(Folder(str(tmp_path / "run")), plan)
    manifest = trained / "checkpoints" / "step-00000001" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 2}))
    with pytest.raises(UserError, match="has format 2, this version reads 1"):
        retention.read_newest(Folder(str(trained)))


def test_a_checkpoint_of_a_version_without_formats_is_read(trained):
    manifest = trained / "checkpoints" / "step-00000001" / "manifest.json"
    digests = json.loads(manifest.read_text())
    assert digests.pop("format") == 1
    manifest.write_text(json.dumps(digests))
    newest, skipped = retention.read_newest(Folder(str(trained)))
    assert newest is not None
    assert skipped == []


def test_a_mistake_that_only_a_worker_finds_leaves_no_claim(plan, tmp_path):
    out = Folder(str(tmp_path / "new" / "run"))
    with pytest.raises(UserError, match="damaged shard"), claimed_folder(out, plan):
        raise UserError("damaged shard")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError), claimed_folder(out, plan) as uid:
        raise RuntimeError("the workers died: the same command resumes")
    with pytest.raises(UserError), claimed_folder(out, plan) as again:
        raise UserError("another mistake; the claim is an earlier command's")
    assert again == uid
    assert (tmp_path / "new" / "run" / "run.json").is_file()


def garbage(kind, trained, folder):
    """What `--model.start-from` may be given instead of a checkpoint."""
    weights = trained / "checkpoints" / "step-00000001" / "model.safetensors"
    if kind == "empty folder":
        folder.mkdir()
    elif kind == "text file":
        folder.write_text("hello")
    elif kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
        return trained
    elif kind == "other configuration":
        net = VGG(Architecture("A", 10, 32, 0.125))
        initialise(net, "glorot", 0)
        state = checkpoint.Checkpoint(1, model_state(net), {}, torch.zeros(1), {"recipe": {}})
        retention.write(Folder(str(folder)), state, best=True)
    elif kind == "list":
        state_json = trained / "checkpoints" / "step-00000001" / "state.json"
        shutil.rmtree(state_json.parent)
        retention.write(Folder(str(trained)), checkpoint.Checkpoint(1, {}, {}, torch.zeros(1), {}), best=True)
        return trained
    return folder


@pytest.mark.parametrize("kind", ["empty folder", "text file", "truncated", "other configuration", "list"])
@pytest.mark.parametrize("dry_run", [True, False])
def test_starting_weights_are_looked_into_before_anything_starts(
    call, digits, trained, tmp_path, kind, dry_run
):
    start = garbage(kind, trained, tmp_path / "start")
    flags = ["--model.initialisation", "checkpoint", "--model.start-from", start]
    flags += ["--out", tmp_path / "out", *(["--dry-run"] if dry_run else [])]
    code, said = call(train, "digits", "--data", digits, *flags)
    assert code == 2
    assert one_line(said)
    assert "--model.start-from" in said
    assert not (tmp_path / "out").exists()


def test_rows_and_labels_are_looked_into_before_anything_starts(call, digits, trained, tmp_path):
    edited = tmp_path / "data"
    shutil.copytree(digits, edited)
    manifest = json.loads((edited / "manifest.json").read_text())
    few = {**manifest, "classes": manifest["classes"][:4], "class_names": manifest["class_names"][:4]}
    (edited / "manifest.json").write_text(json.dumps(few))
    for flags in (["--dry-run"], ["--out", tmp_path / "out"]):
        code, said = call(train, "digits", "--data", edited, *flags)
        assert (code, one_line(said)) == (2, True)
        assert "labels go from 0 to 9, the manifest has 4 classes" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", ["same", "inside", "around"])
def test_a_set_is_not_packed_into_its_source(call, tmp_path, way):
    source = tmp_path / "photos"
    for label in ("cat", "dog"):
        (source / label).mkdir(parents=True)
        picture(40, 40).save(source / label / "0.png")
    out = {"same": source, "inside": source / "cat" / "packed", "around": tmp_path}[way]
    before = sorted(tmp_path.rglob("*"))
    code, said = call(pack, source, out, "--overwrite")
    assert (code, one_line(said)) == (2, True)
    assert "choose a folder of its own" in said
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("result", ["member", "member/posteriors.arrow"])
def test_an_ensemble_is_not_written_over_its_members(call, tmp_path, result):
    (tmp_path / "member").mkdir()
    (tmp_path / "member" / "posteriors.arrow").write_bytes(b"kept")
    code, said = call(ensemble, tmp_path / result, "--out", tmp_path / "member")
    assert (code, one_line(said)) == (2, True)
    assert "choose a folder of its own" in said
    assert [file.read_bytes() for file in (tmp_path / "member").iterdir()] == [b"kept"]


def test_an_ensemble_that_cannot_be_written(call, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    code, said = call(ensemble, tmp_path / "none", "--out", tmp_path / "file" / "out")
    assert (code, one_line(said)) == (2, True)
