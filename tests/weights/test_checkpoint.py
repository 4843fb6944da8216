"""Checkpoints: whole or not there, last and best kept, damage found."""

import hashlib
import json
import shutil
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save

from cli.errors import UserError
from pipelines.storage.folder import Folder
from pipelines.storage.patience import StoreUnavailable
from vgg.training.saving import Saver
from vgg.weights import checkpoint, retention
from vgg.weights.inventory import prune
from vgg.weights.lease import Lease
from vgg.weights.safetensors_file import TYPES, pieces
from vgg.weights.state import Copies, model_state, optimizer_state, restore_optimizer, weights_sha256
from vgg.weights.writer import CheckpointWriter


def state(step, fill=1.0):
    return checkpoint.Checkpoint(
        step,
        {"w": torch.full((4, 3), fill), "b": torch.arange(4.0)},
        {"0.momentum_buffer": torch.full((4, 3), -fill)},
        torch.linspace(2, 1, step),
        {"validations": [{"step": step, "top1": 0.5}], "note": "x"},
    )


@pytest.fixture
def run(tmp_path):
    return Folder(str(tmp_path / "run"))


def newest_step(run):
    newest, _ = retention.read_newest(run)
    assert newest is not None
    return newest.step


def steps(run):
    return [name for name in run.names("checkpoints") if name.startswith("step-")]


def test_what_is_written_is_read(run):
    retention.write(run, state(10, 0.25), best=True)
    got, skipped = retention.read_newest(run)
    assert got is not None
    assert skipped == []
    assert got.step == 10
    assert torch.equal(got.model["w"], torch.full((4, 3), 0.25))
    assert torch.equal(got.optimizer["0.momentum_buffer"], torch.full((4, 3), -0.25))
    assert torch.equal(got.losses, torch.linspace(2, 1, 10))
    assert got.metadata == {"validations": [{"step": 10, "top1": 0.5}], "note": "x"}


def test_manifest_holds_the_digests_of_the_files(run, tmp_path):
    retention.write(run, state(1), best=True)
    folder = tmp_path / "run" / "checkpoints" / "step-00000001"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest.pop("format") == 1
    assert set(manifest) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    for name, entry in manifest.items():
        data = (folder / name).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_files_are_those_of_the_safetensors_library(run, tmp_path):
    """Of every type, of no element and of no dimension; the order of names in the file is not that of types."""
    tensors = {
        "z": torch.randn(3, 4),
        "step": torch.tensor(3.0),
        "none": torch.zeros(0, 2),
        'ä"': torch.ones(1),
    }
    for i, kind in enumerate(TYPES):
        tensors |= {f"a{i}": torch.arange(3).to(kind), f"b{9 - i}": torch.ones(2, 2).to(kind)}
    for each in ({}, tensors):
        assert b"".join(pieces(each)) == save(each)
    retention.write(run, replace(state(1), model=tensors), best=True)
    written = tmp_path / "run" / "checkpoints" / "step-00000001" / "model.safetensors"
    assert written.read_bytes() == save(tensors)


def test_what_a_disk_keeps_otherwise_than_written_is_not_named(run, monkeypatch):
    """A bit that a store turns: the digest is of what is in memory."""
    retention.write(run, state(1), best=True)
    write = Folder.write

    def turning(self, name, data):
        if name == "model.safetensors":
            data = [*data[:-1], bytes(data[-1][:-1]) + bytes([data[-1][-1] ^ 1])]
        write(self, name, data)

    monkeypatch.setattr(Folder, "write", turning)
    with pytest.raises(checkpoint.DamagedCheckpoint, match=r"model\.safetensors is damaged"):
        retention.write(run, state(2), best=True)
    assert retention.read_index(run)["last"] == "step-00000001"
    assert newest_step(run) == 1


def test_the_next_copies_take_the_memory_of_the_last():
    net, copies = torch.nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last), Copies()
    first = model_state(net, copies)
    before = net.weight.detach().clone()
    with torch.no_grad():
        net.weight += 1
    assert torch.equal(first["weight"], before), "until then they stay as they are"
    second = model_state(net, copies)
    assert second["weight"].data_ptr() == first["weight"].data_ptr()
    assert second["weight"].is_contiguous()
    assert torch.equal(second["weight"], net.weight)


def test_a_state_is_not_overwritten_while_it_is_written(run, monkeypatch):
    """The next is copied only when the one before is on storage."""
    net, written = torch.nn.Linear(3, 2), []

    def slowly(_, kept, **options):
        time.sleep(0.2)
        written.append(kept.model["bias"].tolist())

    def copied(copies):
        return checkpoint.Checkpoint(1, model_state(net, copies), {}, torch.zeros(1), {})

    monkeypatch.setattr("vgg.weights.writer.write", slowly)
    lease = Lease(run, "attempt")
    lease.acquire()
    with Saver(run, lease, None, torch.device("cpu")) as saver:
        for step in (1, 2, 3):
            torch.nn.init.constant_(net.bias, step)
            assert saver.save(step, copied, best=True) is None
    lease.release()
    assert written == [[1, 1], [2, 2], [3, 3]]


def test_last_and_best_are_kept_and_no_more(run):
    for step, best in [(1, True), (2, False), (3, True), (4, False), (5, False)]:
        retention.write(run, state(step), best=best)
    assert steps(run) == ["step-00000003", "step-00000004", "step-00000005"]
    assert newest_step(run) == 5
    assert retention.open_checkpoint(run.uri).step == 3
    assert retention.open_checkpoint(f"{run.uri}/checkpoints/step-00000005").step == 5


def test_a_checkpoint_cut_off_while_written_does_not_count(run, tmp_path):
    retention.write(run, state(1), best=True)
    retention.write(run, state(2), best=True)
    retention.write(run, state(3), best=False)
    (tmp_path / "run" / "checkpoints" / "step-00000003" / "manifest.json").unlink()
    assert newest_step(run) == 2
    retention.write(run, state(4), best=False)
    assert steps(run) == ["step-00000002", "step-00000004"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_skipped_with_its_reason_for_the_one_before(run, tmp_path, damage):
    retention.write(run, state(1), best=True)
    retention.write(run, state(2), best=False)
    file = tmp_path / "run" / "checkpoints" / "step-00000002" / "model.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    else:
        data[-1] ^= 1
        file.write_bytes(data if damage == "flip" else data[:-1])
    got, skipped = retention.read_newest(run)
    assert got is not None
    assert got.step == 1
    assert len(skipped) == 1
    assert "step-00000002" in skipped[0]
    assert "model.safetensors" in skipped[0]
    with pytest.raises(checkpoint.DamagedCheckpoint):
        retention.open_checkpoint(f"{run.uri}/checkpoints/step-00000002")


def test_nothing_there(run, tmp_path):
    assert retention.read_newest(run) == (None, [])
    with pytest.raises(UserError, match="neither a checkpoint nor a run's folder"):
        retention.open_checkpoint(str(tmp_path))


def test_unknown_file_system():
    with pytest.raises(ValueError, match="nowhere://x"):
        Folder("nowhere://x")


def test_writer_writes_in_order_and_brings_errors_back(run, tmp_path):
    writer = CheckpointWriter(run)
    for step in (1, 2, 3):
        writer.submit(state(step), best=step == 2)
    writer.close()
    assert steps(run) == ["step-00000002", "step-00000003"]

    (tmp_path / "file").write_text("in the way")
    writer = CheckpointWriter(Folder(str(tmp_path / "file")))
    writer.submit(state(1), best=True)
    with pytest.raises(StoreUnavailable, match=r"file.*cannot be written"):
        writer.close()


def test_a_copy_is_taken_at_once(run):
    net = torch.nn.Linear(3, 2)
    before = net.weight.detach().clone()
    kept = model_state(net)
    with torch.no_grad():
        net.weight += 1
    assert torch.equal(kept["weight"], before)


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.Adam])
def test_training_goes_on_bit_for_bit(run, optimizer_class):
    """Five updates equal two, a checkpoint, and three of a new process; channels-last weights included."""

    def fresh():
        torch.manual_seed(0)
        net = torch.nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
        options = {"momentum": 0.9} if optimizer_class is torch.optim.SGD else {}
        return net, optimizer_class(net.parameters(), 0.1, fused=True, **options)

    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def advance(net, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            net(images).square().mean().backward()
            optimizer.step()

    straight, optimizer = fresh()
    advance(straight, optimizer, 5)

    first, optimizer = fresh()
    advance(first, optimizer, 2)
    kept = checkpoint.Checkpoint(2, model_state(first), optimizer_state(optimizer), torch.zeros(2), {})
    retention.write(run, kept, best=True)
    second, optimizer = fresh()
    taken, _ = retention.read_newest(run)
    assert taken is not None
    second.load_state_dict(taken.model)
    restore_optimizer(optimizer, taken.optimizer)
    advance(second, optimizer, 3)
    assert torch.equal(second.weight, straight.weight)
    assert torch.equal(second.bias, straight.bias)


def test_weights_digest_is_over_values_in_order_of_names():
    a, b = torch.arange(6.0).reshape(2, 3), torch.ones(2)
    wanted = hashlib.sha256(a.numpy().tobytes() + b.numpy().tobytes()).hexdigest()
    assert weights_sha256({"b": b, "a": a}) == wanted
    channels_last = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    plain = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert weights_sha256({"x": channels_last}) == weights_sha256({"x": plain})


DAMAGE = {
    "an empty manifest": ("manifest.json", b""),
    "a manifest of no files": ("manifest.json", b"{}"),
    "a manifest of another shape": ("manifest.json", b"[1, 2]"),
    "garbage for a manifest": ("manifest.json", b"\x00\xff\x00"),
    "weights cut short": ("model.safetensors", b"\x08"),
    "an empty state": ("state.json", b""),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(run, tmp_path, what):
    for step in (1, 2, 3):
        checkpoint_, best = state(step), step == 3  # last and best are one folder
        retention.write(run, checkpoint_, best=best)
    file, data = DAMAGE[what]
    (tmp_path / "run" / "checkpoints" / "step-00000003" / file).write_bytes(data)
    got, skipped = retention.read_newest(run)
    assert got is not None
    assert got.step == 2
    assert len(skipped) == 1
    assert "step-00000003" in skipped[0]


def test_a_deleted_checkpoint_is_said(run, tmp_path):
    for step in (1, 2):
        retention.write(run, state(step), best=True)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000002")
    got, skipped = retention.read_newest(run)
    assert got is not None
    assert got.step == 1
    assert "step-00000002 is missing" in skipped[0]


def test_if_all_are_damaged_nothing_starts_anew(run, tmp_path):
    for step in (1, 2):
        retention.write(run, state(step), best=True)
        (tmp_path / "run" / "checkpoints" / f"step-{step:08d}" / "state.json").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no checkpoint of .* can be read"):
        retention.read_newest(run)


@pytest.mark.parametrize("index", [b"", b"garbage", b"{}", b"[]", b'{"last": 3, "best": null}'])
def test_a_damaged_index_is_made_anew(run, tmp_path, index):
    """The best is the one whose own validation was the best: the second."""
    for step, top1 in ((1, 0.5), (2, 0.9), (3, 0.7)):
        validations = [{"step": step, "top1": top1}]
        metadata = {**state(step).metadata, "validations": validations}
        retention.write(run, replace(state(step), metadata=metadata), best=step == 2)
    (tmp_path / "run" / "checkpoints" / "index.json").write_bytes(index)
    assert retention.read_index(run) == {"last": "step-00000003", "best": "step-00000002"}
    assert retention.open_checkpoint(run.uri).step == 2
    retention.write(run, state(4), best=False)
    assert retention.open_checkpoint(run.uri).step == 2


def test_stray_files_beside_checkpoints_do_not_count(run, tmp_path):
    retention.write(run, state(1), best=True)
    (tmp_path / "run" / "checkpoints" / "step-99").write_text("a note")
    (tmp_path / "run" / "checkpoints" / "step-00000009").write_text("a file where a folder would be")
    (tmp_path / "run" / "checkpoints" / "step-00000001" / "note").write_text("a note")
    assert newest_step(run) == 1
    retention.write(run, state(2), best=True)
    assert newest_step(run) == 2


def test_nothing_is_named_or_deleted_that_is_another_attempts(run):
    """The files are written, but neither the index nor the others are touched."""

    class Lost(Exception):
        pass

    def lost():
        raise Lost

    for step in (1, 2, 3):
        retention.write(run, state(step), best=True)
    before = steps(run), retention.read_index(run)
    with pytest.raises(Lost):
        retention.write(run, state(4), best=True, still_mine=lost)
    assert (steps(run)[:-1], retention.read_index(run)) == before


def test_the_checkpoints_of_epochs_are_kept_for_good(run):
    for step in range(1, 8):
        retention.write(run, state(step), best=step == 3, epoch={2: 1, 4: 2}.get(step))
    kept = {f"step-0000000{step}": why for step, why in ((2, "epoch 1"), (3, "best"), (4, "epoch 2"))}
    newest = {f"step-0000000{step}": "newest" for step in (6, 7)}
    assert {name: ", ".join(why) for name, why in retention.kept(run).items()} == {**kept, **newest}
    assert steps(run) == sorted([*kept, *newest])
    assert prune(run) == []
    (run.local / "checkpoints" / "step-00000004" / "model.safetensors").write_bytes(b"")
    assert prune(run) == ["step-00000004"]


@pytest.mark.parametrize("text", ["[]", "{", '{"epoch": "x"}', ""])
def test_an_epochs_checkpoint_whose_mark_is_damaged_is_still_kept(run, text):
    for step in range(1, 4):
        retention.write(run, state(step), best=False, epoch=1 if step == 2 else None)
    run.write("checkpoints/step-00000002/epoch.json", text.encode())
    for step in range(4, 7):
        retention.write(run, state(step), best=step == 6)
    assert retention.kept(run)["step-00000002"] == ["an epoch's"]
    assert steps(run) == ["step-00000002", "step-00000005", "step-00000006"]


def test_a_checkpoint_of_an_epoch_that_was_not_finished_does_not_count(run):
    run.child("checkpoints/step-00000001").write_json("epoch.json", {"epoch": 1})
    retention.write(run, state(2), best=True)
    assert steps(run) == ["step-00000002"]
