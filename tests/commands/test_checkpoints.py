"""`python -m vgg.checkpoints`: what a run has, whether it is sound, and what may go."""

import sys
from dataclasses import replace

import pytest
import torch

from cluster.layout import Worker
from pipelines.storage.folder import Folder
from tests.processes import job
from vgg import checkpoints
from vgg.recipes.registry import RECIPES
from vgg.training.loop import train
from vgg.weights import retention
from vgg.weights.lease import Lease

RECIPE = RECIPES["digits"][1]
SMALL = replace(RECIPE, model=replace(RECIPE.model, width=0.125))
ALONE = Worker(0, 1, 0, torch.device("cpu"), 1)


def trained(digits, out, **changes):
    settings = {"steps": 14, "checkpoint_steps": 5, **changes}
    asked = job(digits, out, replace(SMALL, train=replace(SMALL.train, **settings)))
    assert train(ALONE, asked, lambda _: []).result
    return out


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["checkpoints", *map(str, arguments)])
        code: object = 0
        try:
            checkpoints.main()
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def names(out):
    return sorted(folder.name for folder in (out / "checkpoints").glob("step-*"))


def test_the_newest_two_and_the_best_are_listed(digits, tmp_path, command):
    out = trained(digits, tmp_path)
    code, listed, _ = command("list", out)
    assert code == 0
    lines = {line.split()[1]: line for line in listed.splitlines() if "step-" in line}
    assert sorted(lines) == names(out)
    assert "newest" in lines["step-00000014"]
    assert any("best" in line for line in lines.values())


def test_damage_is_found_and_pruned(digits, tmp_path, command):
    out = trained(digits, tmp_path)
    assert command("verify", out)[0] == 0
    older, newest = names(out)[-2:]
    weights = out / "checkpoints" / newest / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert command("list", out)[0] == 0  # it reads no weights
    code, listed, error = command("verify", out)
    assert code == 1
    assert newest in error
    assert "SHA-256" in listed
    code, said, _ = command("prune", out)
    assert code == 0
    assert f"deleted {newest}" in said
    assert older in names(out)
    assert newest not in names(out)
    assert retention.read_newest(Folder(str(out)))[1] == []
    assert command("prune", out)[1] == "nothing to delete\n"


def test_nothing_is_pruned_where_nothing_is_sound(digits, tmp_path, command):
    out = trained(digits, tmp_path)
    before = names(out)
    for folder in before:
        (out / "checkpoints" / folder / "state.json").write_text("{}")
    code, _, error = command("prune", out)
    assert code == 1
    assert "no checkpoint" in error
    assert names(out) == before


def test_a_run_that_is_being_written_is_not_pruned(digits, tmp_path, command):
    out = trained(digits, tmp_path)
    lease = Lease(Folder(str(out)), "another")
    lease.acquire()
    try:
        code, _, error = command("prune", out)
    finally:
        lease.release()
    assert code == 2
    assert "being written" in error


def test_a_folder_without_checkpoints_is_a_mistake(tmp_path, command):
    for verb in ("list", "verify", "prune"):
        code, _, error = command(verb, tmp_path)
        assert code == 2
        assert "has no checkpoints" in error


def test_on_a_store(digits, tmp_path, command, object_store):
    """The same by its URI."""
    uri = object_store.uri("checkpoints-command")
    out = trained(digits, tmp_path)
    target = Folder(uri)
    for file in (out / "checkpoints").rglob("*"):
        if file.is_file():
            target.write(str(file.relative_to(out)), file.read_bytes())
    assert command("verify", uri)[0] == 0
    newest = names(out)[-1]
    target.write(f"checkpoints/{newest}/model.safetensors", b"")
    assert command("verify", uri)[0] == 1
    assert f"deleted {newest}" in command("prune", uri)[1]
    assert command("verify", uri)[0] == 0
