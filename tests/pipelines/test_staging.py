"""Staging from a real S3 server: whole, verified, shared, resumed, and through a restart of the server."""

import hashlib
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipelines.stage
from cli.errors import UserError
from cluster.layout import Layout
from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from pipelines.shards import remote_file
from pipelines.shards.manifest import MANIFEST, Manifest, ShardInfo, Split, read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.remote_file import RemoteFile
from pipelines.shards.room import RESERVED, reserved_room
from pipelines.shards.staged import USERS, data_set_lock
from pipelines.shards.staging import StagingOptions, stage
from pipelines.shards.verification import verify
from pipelines.stage import main
from pipelines.storage import folder as folder_module
from pipelines.storage.folder import Folder
from pipelines.storage.patience import Patience
from tests.conftest import ROOT
from tests.object_store import KEYS, ObjectStore
from tests.processes import Workers, job
from vgg.recipes.registry import RECIPES


def put(uri: str, files: int = 6, size: int = 300_000, seed: int = 0) -> Manifest:
    """Files that stand for shards, which staging does not look into, and their manifest."""
    folder, infos = Folder(uri), []
    for number in range(files):
        data = np.random.default_rng([seed, number]).bytes(size)
        name = f"train-{number:05d}.arrow"
        folder.write(name, data)
        infos.append(ShardInfo(name, 1, size, hashlib.sha256(data).hexdigest()))
    unit = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    splits = {"train": Split(tuple(infos))}
    manifest = Manifest(1, f"made up {seed}", ("a",), ("A",), splits, (1.0, 2.0, 3.0), unit, ())
    folder.write(MANIFEST, manifest.to_json().encode())
    return manifest


def sound(folder: Path, manifest: Manifest) -> bool:
    verify(folder, manifest)
    return {file.name for file in folder.iterdir()} == {
        MANIFEST,
        USERS,
        *(info.file for info in manifest.splits["train"].shards),
    }


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pipelines.stage", *map(str, arguments)]


def test_packed_to_a_store_and_staged_from_it(object_store, tmp_path):
    """End to end: the same bytes as packed on disk; the URI holds no trace of the packing."""
    uri = object_store.uri("digits")
    remote = pack(PackOptions("digits", uri, workers=1))
    local = pack(PackOptions("digits", tmp_path / "local", workers=1))
    assert remote == local == read_manifest(uri)
    assert "packing" not in Folder(uri).names()
    folder = stage(StagingOptions(uri, tmp_path / "cache"))
    verify(folder, remote)
    assert (
        Shards(folder, remote, "val").encoded(3).tobytes()
        == Shards(tmp_path / "local", local, "val").encoded(3).tobytes()
    )
    with pytest.raises(UserError, match="holds a packed data set already"):
        pack(PackOptions("digits", uri, workers=1))


def test_nothing_of_others_is_packed_over(object_store):
    Folder(object_store.uri("mine")).write("thesis.tex", b"mine")
    with pytest.raises(UserError, match="is not empty"):
        pack(PackOptions("digits", object_store.uri("mine"), workers=1))
    assert Folder(object_store.uri("mine")).names() == ["thesis.tex"]


def test_what_lies_on_a_disk_stays_there(tmp_path, digits):
    assert stage(StagingOptions(str(digits), tmp_path / "cache")) == digits
    assert stage(StagingOptions(f"file://{digits}", tmp_path / "cache")) == digits
    assert not (tmp_path / "cache").exists()


def test_a_second_staging_fetches_nothing(object_store, tmp_path, capsys):
    manifest = put(object_store.uri("twice"))
    first = stage(StagingOptions(object_store.uri("twice"), tmp_path))
    assert sound(first, manifest)
    before = {file.name: file.stat().st_ino for file in first.iterdir()}
    capsys.readouterr()
    assert stage(StagingOptions(object_store.uri("twice"), tmp_path)) == first
    assert {file.name: file.stat().st_ino for file in first.iterdir()} == before
    assert "staging" not in capsys.readouterr().err


def test_taken_up_where_it_was_cut(object_store, tmp_path):
    """Half a file is kept and completed; a half whose bytes are wrong is fetched anew."""
    uri = object_store.uri("cut")
    manifest = put(uri)
    folder = tmp_path / manifest.digest[:16]
    folder.mkdir()
    data = Folder(uri).read("train-00000.arrow")
    (folder / "train-00000.arrow.partial").write_bytes(data[:100_000])
    (folder / "train-00001.arrow.partial").write_bytes(b"x" * 100_000)
    inode = (folder / "train-00000.arrow.partial").stat().st_ino
    assert stage(StagingOptions(uri, tmp_path)) == folder
    assert sound(folder, manifest)
    assert (folder / "train-00000.arrow").stat().st_ino == inode


@pytest.mark.parametrize("fault", ["flipped", "short", "missing"])
def test_damage_at_the_source_is_named(object_store, tmp_path, fault):
    uri = object_store.uri(f"damaged-{fault}")
    put(uri)
    folder = Folder(uri)
    data = bytearray(folder.read("train-00003.arrow"))
    data[1000] ^= 1
    if fault == "missing":
        folder.delete_file("train-00003.arrow")
    else:
        folder.write("train-00003.arrow", bytes(data if fault == "flipped" else data[:-1]))
    with pytest.raises(UserError, match=r"train-00003\.arrow of s3://bucket/damaged"):
        stage(StagingOptions(uri, tmp_path, patience_seconds=1))
    (target,) = (entry for entry in tmp_path.iterdir() if entry.is_dir())
    assert not (target / MANIFEST).exists()


def test_the_workers_of_a_machine_share_one_staging(object_store, tmp_path):
    """Four processes at once: one fetches, all find the data."""
    uri = object_store.uri("shared")
    manifest = put(uri)
    children = [
        subprocess.Popen(
            command(uri, "--folder", tmp_path),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    told = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0] * 4
    assert {out.strip() for out, _ in told} == {str(tmp_path / manifest.digest[:16])}
    assert sum("staging" in err for _, err in told) == 1
    assert sound(tmp_path / manifest.digest[:16], manifest)


def test_a_server_that_is_killed_and_restarted_meanwhile(tmp_path, monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "s3").mkdir()
    with ObjectStore(tmp_path / "s3") as store:
        uri = store.uri("restart")
        manifest = put(uri, files=12, size=8_000_000)
        found: list[Path] = []
        options = StagingOptions(uri, tmp_path / "cache", streams=2, patience_seconds=60)
        folder = options.folder / manifest.digest[:16]
        thread = threading.Thread(target=lambda: found.append(stage(options)))
        thread.start()
        deadline = time.monotonic() + 60
        while not list(folder.glob("train-*.arrow")):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        store.kill()
        there = len(list(folder.glob("train-*.arrow")))
        time.sleep(2)
        assert not (folder / MANIFEST).exists()
        assert len(list(folder.glob("train-*.arrow"))) <= there + 1
        assert there < 11
        store.start()
        thread.join(timeout=90)
        assert found == [folder]
        assert sound(folder, manifest)


def test_a_server_that_stays_away(tmp_path, monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    uri = "s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http&region=us-east-1"
    monkeypatch.setattr(folder_module, "FIRST_CONTACT", Patience(0.5, UserError, knows_host=False))
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1.* cannot be read \(manifest\.json\) for 0\.5 s"):
        stage(StagingOptions(uri, tmp_path / "cache"))


def test_unused_data_sets_make_room_and_used_ones_do_not(object_store, tmp_path):
    """Each takes 1.8 MB of a budget of 4; the first is not used once its process has ended."""
    first, second, third = (object_store.uri(f"room{i}") for i in range(3))
    manifests = [put(uri, seed=i) for i, uri in enumerate((first, second, third))]
    folders = [tmp_path / manifest.digest[:16] for manifest in manifests]
    limits = {"folder": tmp_path, "budget_gb": 0.004}
    done = subprocess.run(
        command(first, "--folder", tmp_path, "--budget-gb", 0.004), cwd=ROOT, capture_output=True, timeout=60
    )
    assert done.returncode == 0
    stage(StagingOptions(second, **limits))
    assert folders[0].exists()
    stage(StagingOptions(third, **limits))
    assert not folders[0].exists()
    assert sound(folders[1], manifests[1])
    assert sound(folders[2], manifests[2])
    with pytest.raises(UserError, match=r"lacks .* within 0\.004 GB"):
        stage(StagingOptions(first, **limits))
    assert sound(folders[1], manifests[1])


STAGE_AND_STAY = """
import sys, time
from pathlib import Path
from pipelines.shards.staging import StagingOptions, stage
print(stage(StagingOptions(sys.argv[1], Path(sys.argv[2]))), flush=True)
time.sleep(300)
"""


def test_a_data_set_is_in_use_until_its_process_is_killed(object_store, tmp_path):
    first, second = object_store.uri("killed0"), object_store.uri("killed1")
    kept, manifest = put(first, seed=10), put(second, seed=11)
    child = subprocess.Popen(
        [sys.executable, "-c", STAGE_AND_STAY, first, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        folder = Path(child.stdout.readline().strip())
        with pytest.raises(UserError, match="lacks"):
            stage(StagingOptions(second, tmp_path, budget_gb=0.003))
        assert sound(folder, kept)
    finally:
        child.kill()
        child.wait()
    assert sound(stage(StagingOptions(second, tmp_path, budget_gb=0.003)), manifest)
    assert not folder.exists()


def test_a_data_set_that_a_thread_staged_stays_in_use(object_store, tmp_path):
    """The process uses it, also after that thread has ended."""
    first, second = object_store.uri("thread0"), object_store.uri("thread1")
    manifest = put(first, seed=20)
    put(second, seed=21)
    thread = threading.Thread(target=stage, args=[StagingOptions(first, tmp_path)])
    thread.start()
    thread.join(timeout=60)
    folder = stage(StagingOptions(first, tmp_path))
    assert len(list((folder / USERS).iterdir())) == 1
    done = subprocess.run(
        command(second, "--folder", tmp_path, "--budget-gb", 0.003), cwd=ROOT, capture_output=True, timeout=60
    )
    assert done.returncode == 2
    assert b"lacks" in done.stderr
    assert sound(folder, manifest)


def test_one_that_is_being_fetched_is_not_removed(object_store, tmp_path):
    """Its process has the lock but no mark yet."""
    first, second = object_store.uri("lock0"), object_store.uri("lock1")
    folder = tmp_path / put(first, seed=30).digest[:16]
    put(second, seed=31)
    folder.mkdir(parents=True)
    (folder / "train-00000.arrow.partial").write_bytes(bytes(1_800_000))
    options = StagingOptions(second, tmp_path, budget_gb=0.003)
    with data_set_lock(folder), pytest.raises(UserError, match="lacks"):
        stage(options)
    assert folder.exists()
    stage(options)
    assert not folder.exists()


def test_a_damaged_file_ends_the_wait_for_others(object_store, tmp_path):
    """A missing file is waited for up to 30 seconds, unless another has failed."""
    uri = object_store.uri("others")
    put(uri)
    Folder(uri).delete_file("train-00000.arrow")
    Folder(uri).write("train-00005.arrow", b"short")
    started = time.monotonic()
    with pytest.raises(UserError, match=r"train-00005\.arrow .* is damaged: 5 bytes, not 300000"):
        stage(StagingOptions(uri, tmp_path))
    assert time.monotonic() - started < 15


class UnreliableStore:
    """A file system whose streams break; it counts the bytes that are read."""

    def __init__(self, data: bytes, errors: list[OSError | None]) -> None:
        self.data, self.errors, self.read = data, errors, 0

    def open_input_file(self, _: str) -> "UnreliableStore":
        return self

    def size(self) -> int:
        return len(self.data)

    def close(self) -> None:
        pass

    def read_at(self, size: int, offset: int) -> bytes:
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        self.read += size
        return self.data[offset : offset + size]


def read_all(store: UnreliableStore, tmp_path: Path, patience_seconds: float) -> bytes:
    source = Folder(str(tmp_path))
    source.fs = store
    with RemoteFile(source, ShardInfo("x", 1, len(store.data), "")) as file:
        return b"".join(file.blocks(0, Patience(patience_seconds, UserError), threading.Event()))


def test_patience_counts_from_the_last_byte(tmp_path, monkeypatch):
    """Three interruptions of 0.6 seconds each are not one of 1.8; every byte is read once."""
    monkeypatch.setattr(remote_file, "BLOCK_BYTES", 1000)
    reset = ConnectionResetError(104, "reset")
    cut: list[OSError | None] = [reset, reset, None]  # pauses of 0.2 and 0.4 seconds
    store = UnreliableStore(bytes(range(250)) * 16, cut * 3)
    started = time.monotonic()
    assert read_all(store, tmp_path, patience_seconds=1.0) == store.data
    assert time.monotonic() - started >= 1.8
    assert store.read == len(store.data)


def test_patience_ends(tmp_path):
    store = UnreliableStore(b"x" * 10, [ConnectionResetError(104, "reset by peer")] * 50)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"x of .* cannot be fetched: reset by peer$"):
        read_all(store, tmp_path, patience_seconds=1.0)
    assert time.monotonic() - started > 1.0


def test_a_bug_is_not_taken_for_a_mistake(tmp_path, monkeypatch):
    def with_a_bug(_):
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr(pipelines.stage, "stage", with_a_bug)
    monkeypatch.setattr(sys, "argv", ["stage", str(tmp_path)])
    with pytest.raises(ValueError, match="not enough values"):
        main()


def test_the_command_tells_mistakes(object_store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["stage", object_store.uri("nowhere"), "--folder", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "not a packed data set" in capsys.readouterr().err


def test_a_training_stages_by_itself(object_store, tmp_path, digits):
    """Two workers in this process's stead: the result is that of a training on the local folder."""
    uri = object_store.uri("train-digits")
    for file in digits.iterdir():
        Folder(uri).write(file.name, file.read_bytes())
    recipe = RECIPES["digits"][1]
    short = replace(recipe, train=replace(recipe.train, steps=3))
    results: list[dict[str, Any]] = []
    with Workers() as workers:
        for name, data in (("remote", uri), ("local", str(digits))):
            layout = Layout(workers=2, stage_dir=str(tmp_path / "cache"))
            result = workers.run(2, job(data, tmp_path / name, short, layout=layout)).result
            assert result is not None
            results.append(result)
    assert results[0]["losses"] == results[1]["losses"]
    assert results[0]["weights_sha256"] == results[1]["weights_sha256"]
    assert results[0]["data"]["folder"] == uri


def test_only_the_wanted_split_is_staged_and_verified(object_store, tmp_path, digits):
    """A shard of the other split is missing at the source, and nobody minds until it is asked for."""
    uri = object_store.uri("one-split")
    for file in digits.iterdir():
        if not file.name.startswith("train-"):
            Folder(uri).write(file.name, file.read_bytes())
    options = StagingOptions(uri, tmp_path, patience_seconds=1)
    folder = stage(options, splits=("val",))
    manifest = read_manifest(folder)
    assert not list(folder.glob("train*"))
    verify(folder, manifest, ("val",))
    assert len(Shards(folder, manifest, "val")) == manifest.splits["val"].images
    with pytest.raises(UserError, match="no split 'test', only train, val"):
        stage(options, splits=("test",))
    with pytest.raises(UserError, match=r"train-00000\.arrow .*is missing"):
        stage(options)


def test_two_that_stage_at_once_do_not_count_on_the_same_room(object_store, tmp_path):
    """One has room for 1.8 MB of a budget of 3 and has fetched a part of it: the other is refused, not both."""
    first, second = object_store.uri("race0"), object_store.uri("race1")
    target = tmp_path / put(first, seed=40).digest[:16]
    put(second, seed=41)
    target.mkdir(parents=True)
    with data_set_lock(target), reserved_room(1_800_000, target, 0.003, "staging"):
        (target / "train-00000.arrow.partial").write_bytes(bytes(300_000))
        with pytest.raises(UserError, match=r"takes 0\.00 GB, for which .* within 0\.003 GB"):
            stage(StagingOptions(second, tmp_path, budget_gb=0.003))
    assert target.exists()
    stage(StagingOptions(second, tmp_path, budget_gb=0.003))  # the first has given up
    target.mkdir(exist_ok=True)
    with data_set_lock(target), pytest.raises(UserError, match="lacks"):
        _reserve_all(target)


def _reserve_all(target: Path) -> None:
    with reserved_room(1_800_000, target, 0.003, "staging"):
        raise AssertionError("there is no room beside the second data set")


def test_a_reservation_of_a_process_that_was_killed_is_none(object_store, tmp_path):
    uri = object_store.uri("killed-reservation")
    put(uri, seed=42)
    dead = tmp_path / "dead"
    dead.mkdir()
    (dead / RESERVED).write_text("2900000")
    (dead / "train-00000.arrow.partial").write_bytes(bytes(1_000_000))
    assert stage(StagingOptions(uri, tmp_path, budget_gb=0.003)).is_dir()
