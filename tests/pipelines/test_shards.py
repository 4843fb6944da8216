"""Shards: what was written is read, damage is found, and the order is a function of (seed, epoch)."""

import dataclasses
import hashlib
import itertools
import json
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import pipelines.packing.arrow_file
from cli.errors import UserError
from cluster.partition import rank_slice
from pipelines.pack import pack
from pipelines.packing.arrow_file import ShardWriter, write_index
from pipelines.packing.options import PackOptions
from pipelines.shards.boxes import Box
from pipelines.shards.manifest import MANIFEST, BoxStatistics, Manifest, ShardInfo, Split, read_manifest
from pipelines.shards.order import training_order
from pipelines.shards.reader import Shards
from pipelines.shards.schema import SCHEMA
from pipelines.shards.verification import verify
from pipelines.storage.folder import Folder
from tests.conftest import ROOT

ROWS: list[dict[str, Any]] = [
    {
        "key": f"train/{place % 3}/ü {place}.jpg",
        "image": np.random.default_rng(place).bytes(1 + 97 * place),
        "label": place % 3,
        "height": 10 + place,
        "width": 20 + place,
        "boxes": [Box(0.0, 1.0, 2.5, place, "b", 7, place)._asdict()] * (place % 3),
    }
    for place in range(40)
]


@pytest.fixture(autouse=True)
def temporary_files(tmp_path, monkeypatch):
    """What `verify` remembers is remembered here."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """Forty rows over several shards, each of several record batches; an empty split."""
    monkeypatch.setattr(pipelines.packing.arrow_file, "BATCH_BYTES", 4_000)
    root = tmp_path / "packed"
    root.mkdir()
    infos = []
    for number in range(4):
        file = f"train-{number:05d}.arrow"
        with (root / file).open("wb") as stream:
            writer = ShardWriter(stream, SCHEMA)
            for row in ROWS[10 * number : 10 * number + 10]:
                writer.add(row)
            infos.append(writer.close(file))
    manifest = Manifest(
        3, "test", ("a", "b", "c"), ("A", "B", "C"),
        {"train": Split(tuple(infos)), "val": Split(())},
        (1.0, 2.0, 3.0), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), (), None,
        BoxStatistics({"train": 0, "val": 0}, None),
    )  # fmt: skip
    (root / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return root


def test_every_row_is_read_as_written(packed):
    manifest = read_manifest(packed)
    assert len(manifest.splits["train"].shards) > 2
    shards = Shards(packed, manifest, "train")
    file = packed / manifest.splits["train"].shards[1].file
    assert pa.ipc.open_file(str(file)).num_record_batches > 1
    assert len(shards) == manifest.splits["train"].images == len(ROWS)
    assert shards.labels_N.dtype == np.int64
    for i, row in enumerate(ROWS):
        assert shards.encoded(i).tobytes() == row["image"]
        assert shards.key(i) == row["key"]
        assert shards.boxes(i) == [Box(**box) for box in row["boxes"]]
        assert (shards.labels_N[i], shards.heights_N[i], shards.widths_N[i]) == (
            row["label"],
            row["height"],
            row["width"],
        )


def test_the_index_says_what_the_shards_say(tmp_path):
    """A data set without one, as the first version packed them, reads the same."""
    pack(PackOptions("digits", tmp_path / "digits", workers=1))
    manifest = read_manifest(tmp_path / "digits")
    without = {name: dataclasses.replace(split, index=None) for name, split in manifest.splits.items()}
    for split in manifest.splits:
        ours = Shards(tmp_path / "digits", manifest, split)
        theirs = Shards(tmp_path / "digits", dataclasses.replace(manifest, splits=without), split)
        assert len(ours) == len(theirs) > 300
        for name in ("labels_N", "heights_N", "widths_N"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name))
    text = json.loads(manifest.to_json())
    del text["splits"]["train"]["index"]
    assert Manifest.from_json(json.dumps(text)).splits["train"] == without["train"]


def test_images_are_views_of_the_map(packed):
    shards = Shards(packed, read_manifest(packed), "train")
    assert np.shares_memory(shards.encoded(5), shards.encoded(5))
    assert not shards.encoded(5).flags.writeable


def test_an_empty_split_has_no_rows(packed):
    shards = Shards(packed, read_manifest(packed), "val")
    assert len(shards) == len(shards.heights_N) == len(shards.labels_N) == 0


def test_unknown_split(packed):
    with pytest.raises(UserError, match="no split 'test', only train, val"):
        Shards(packed, read_manifest(packed), "test")


def test_the_manifest_holds_size_and_digest_of_each_file(packed):
    for shard in read_manifest(packed).splits["train"].shards:
        data = (packed / shard.file).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_the_digest_tells_manifests_apart(packed):
    manifest = read_manifest(packed)
    assert manifest.digest == read_manifest(packed).digest
    assert manifest.digest == hashlib.sha256((packed / MANIFEST).read_bytes()).hexdigest()
    assert dataclasses.replace(manifest, mean_rgb=(1.0, 2.0, 3.5)).digest != manifest.digest


def test_missing_folder_and_missing_manifest(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*nowhere.*pipelines\.pack"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not a packed data set"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("splits", []),
        ("splits", {"train": {"shards": [{"file": "a"}]}}),
        ("splits", {"train": {"shards": [{"file": "../a", "rows": 1, "bytes": 1, "sha256": ""}]}}),
        ("classes", None),
        ("classes", ["a"]),
        ("mean_rgb", "abc"),
        ("mean_rgb", [1, 2]),
        ("covariance_rgb", [[1, 0, 0]]),
        ("covariance_rgb", [[1, 0, 0], [0, float("nan"), 0], [0, 0, 1]]),
        ("set_aside", [{"key": "a"}]),
    ],
)
def test_malformed_manifest(packed, field, value):
    raw = json.loads((packed / MANIFEST).read_text())
    (packed / MANIFEST).write_text(json.dumps(raw | {field: value}))
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        read_manifest(packed)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"format": 1}', "{"])
def test_a_manifest_that_is_none(packed, text):
    (packed / MANIFEST).write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        read_manifest(packed)


def test_a_later_format_is_named_even_with_other_fields(packed):
    (packed / MANIFEST).write_text('{"format": 7, "news": []}')
    with pytest.raises(UserError, match="has format 7, this version reads 1, 2, 3, 4, 5, 6"):
        read_manifest(packed)


@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_one_flipped_byte_is_found_and_its_shard_named(packed, place):
    manifest = read_manifest(packed)
    file = packed / manifest.splits["train"].shards[1].file
    data = bytearray(file.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"train-00001\.arrow is damaged"):
        verify(packed, manifest)


def test_damage_after_a_verification_is_found(packed):
    manifest = read_manifest(packed)
    verify(packed, manifest)
    file = packed / "train-00000.arrow"
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"train-00000\.arrow is damaged"):
        verify(packed, manifest)


def test_a_missing_shard_is_named(packed):
    (packed / "train-00002.arrow").unlink()
    with pytest.raises(UserError, match=r"train-00002\.arrow is missing"):
        verify(packed, read_manifest(packed))


def test_verification_tells_how_far_it_is(packed):
    manifest = read_manifest(packed)
    told = []
    verify(packed, manifest, progress=lambda done, total: told.append((done, total)))
    total = sum((packed / s.file).stat().st_size for s in manifest.splits["train"].shards)
    assert told[-1] == (total, total)
    assert told == sorted(told)


@pytest.mark.parametrize("text", ["", "{", '["no", "dictionary"]', '{"x": 3}'])
def test_a_damaged_memory_only_costs_reading_again(packed, text):
    manifest = read_manifest(packed)
    verify(packed, manifest)
    (memory,) = (packed.parent / "temporary").glob("*/*.json")
    memory.write_text(text)
    verify(packed, manifest)
    assert len(json.loads(memory.read_text())) >= len(manifest.splits["train"].shards)


def test_a_cut_shard_cannot_be_read(packed):
    file = packed / "train-00000.arrow"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"train-00000\.arrow cannot be read"):
        Shards(packed, read_manifest(packed), "train")


def test_each_epoch_is_a_permutation_of_its_own():
    epochs_B, images_B = training_order(seed=3, first=0, count=300, size=100)
    assert epochs_B.tolist() == [0] * 100 + [1] * 100 + [2] * 100
    for epoch in range(3):
        assert sorted(images_B[epochs_B == epoch]) == list(range(100))
    assert len({tuple(images_B[epochs_B == epoch]) for epoch in range(3)}) == 3
    assert not np.array_equal(images_B, training_order(4, 0, 300, 100)[1])


@given(
    seed=st.integers(0, 2**63),
    size=st.integers(1, 40),
    cuts=st.lists(st.integers(0, 150), min_size=2, max_size=5).map(sorted),
)
def test_the_stream_does_not_depend_on_how_it_is_cut(seed, size, cuts):
    whole = training_order(seed, cuts[0], cuts[-1] - cuts[0], size)
    pieces = [training_order(seed, a, b - a, size) for a, b in itertools.pairwise(cuts)]
    for column in range(2):
        assert np.array_equal(np.concatenate([piece[column] for piece in pieces]), whole[column])


def test_a_batch_may_straddle_two_epochs():
    epochs_B, images_B = training_order(seed=0, first=7, count=6, size=10)
    assert epochs_B.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(images_B[3:], training_order(0, 10, 3, 10)[1])


@pytest.mark.parametrize("world", range(1, 65))
@pytest.mark.parametrize("images", [64, 1000, 1437])
def test_an_epoch_over_1_to_64_ranks(world, images):
    """As the ranks take it, batch by batch: every image once, and even to one image."""
    batch = 256
    seen: list[list[int]] = [[] for _ in range(world)]
    for first in range(0, images, batch):
        rows = min(batch, images - first)
        for rank in range(world):
            mine = rank_slice(rank, world, rows)
            seen[rank] += list(training_order(7, first + mine.start, len(mine), images)[1])
            assert rows // world <= len(mine) <= -(-rows // world)
    assert sorted(image for of_rank in seen for image in of_rank) == list(range(images))


def test_shares():
    assert [len(rank_slice(rank, 3, 256)) for rank in range(3)] == [86, 85, 85]


@given(world=st.integers(1, 300), total=st.integers(0, 1000))
def test_shares_cover_every_row_once_and_evenly(world, total):
    rows = [rank_slice(rank, world, total) for rank in range(world)]
    assert [row for part in rows for row in part] == list(range(total))
    sizes = [len(part) for part in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


OPENING = """
import resource, sys, time
from pathlib import Path
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.schema import SCHEMA
def memory():
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) / 1024
before, started = memory(), time.process_time()
root = Path(sys.argv[1])
shards = Shards(root, read_manifest(root), "train")
print(len(shards), time.process_time() - started, memory() - before)
"""


def test_opening_imagenets_number_of_images(tmp_path):
    """1.28 million entries in 2209 shards, by an index that is made up: under 2 seconds, under 200 MB."""
    images, each = 1_281_167, 580
    rows_N3 = np.random.default_rng(0).integers(1, 500, (images, 3), np.int32)
    rows_N3[:, 0] = 0
    index = write_index(Folder(str(tmp_path)), "train.index.arrow", rows_N3)
    infos = []
    for number, first in enumerate(range(0, images, each)):
        (tmp_path / f"{number}").write_bytes(b"x")
        infos.append(ShardInfo(f"{number}", min(each, images - first), 1, "0" * 64))
    unit = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    splits = {"train": Split(tuple(infos), index)}
    manifest = Manifest(1, "made up", ("a",), ("A",), splits, (1.0, 2.0, 3.0), unit, ())
    (tmp_path / MANIFEST).write_text(manifest.to_json())
    done = subprocess.run([sys.executable, "-c", OPENING, tmp_path], cwd=ROOT, capture_output=True, text=True)
    found, seconds, megabytes = map(float, done.stdout.split())
    assert found == images
    assert seconds < 2
    assert megabytes < 200


READ_WHILE_CUT = """
import os, sys
from pathlib import Path
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.schema import SCHEMA
root = Path(sys.argv[1])
shards = Shards(root, read_manifest(root), "train")
file = root / "train-00000.arrow"
shards.encoded(0).sum()
os.truncate(file, 4096 if sys.argv[2] == "cut" else file.stat().st_size)
if sys.argv[2] == "replaced":
    file.rename(root / "old")
    file.write_bytes(b"short")
if sys.argv[2] == "deleted":
    file.unlink()
print(sum(int(shards.encoded(i).sum()) for i in range(len(shards))))
"""


@pytest.mark.parametrize("change", ["cut", "replaced", "deleted"])
def test_a_shard_that_is_cut_short_while_mapped(tmp_path, change):
    """An error, not a signal; one that was replaced or deleted as a whole is still mapped."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(20):
            (tmp_path / "source" / split / "a").mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(rng.integers(0, 256, (100, 100, 3), np.uint8))
            image.save(tmp_path / "source" / split / "a" / f"{i}.png")
    pack(PackOptions(str(tmp_path / "source"), tmp_path / "out", workers=1))
    done = subprocess.run(
        [sys.executable, "-c", READ_WHILE_CUT, tmp_path / "out", change],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if change == "cut":
        assert done.returncode == 1, done.returncode
        assert "UserError: shard" in done.stderr
        assert "was cut short while it was read: it has 4,096 bytes" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
