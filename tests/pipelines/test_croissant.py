"""The Croissant description of a packed data set, read by MLCommons' own checker."""

import hashlib
import json
from pathlib import Path
from typing import Any

import mlcroissant
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.pack import pack
from pipelines.packing.croissant import ARROW, CONFORMS_TO
from pipelines.packing.options import PackOptions
from pipelines.shards.manifest import read_manifest
from tests.transferring.made_actions import make_actions


@pytest.fixture(scope="module")
def described(digits) -> mlcroissant.Dataset:
    return mlcroissant.Dataset(jsonld=str(digits / "croissant.json"))


def test_mlcommons_own_checker_finds_no_error(described):
    assert list(described.metadata.ctx.issues.errors) == []
    assert described.metadata.ctx.conforms_to.value == CONFORMS_TO


def test_it_names_every_shard_with_its_digest(described, digits: Path):
    files = {d.name: d.sha256 for d in described.metadata.distribution if getattr(d, "sha256", None)}
    shards = [shard.file for split in read_manifest(digits).splits.values() for shard in split.shards]
    assert sorted(files) == sorted(shards)
    for name, digest in files.items():
        assert hashlib.sha256((digits / name).read_bytes()).hexdigest() == digest


def test_its_columns_are_those_of_the_shards(described, digits: Path):
    with pa.memory_map(str(next(digits.glob("val-*.arrow")))) as file:
        columns = pa.ipc.open_file(file).schema.names
    fields = {record.name: [field.name for field in record.fields] for record in described.metadata.record_sets}
    assert set(fields["val"]) <= set(columns)
    assert fields["val"] == fields["train"]


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Path:
    """Images of several classes, with boxes, packed."""
    folder = tmp_path_factory.mktemp("several")
    root, _ = make_actions(folder)
    pack(PackOptions(str(root / "ImageSets/Action"), folder / "packed", workers=1))
    return folder / "packed"


def test_several_classes_and_boxes_are_described(several):
    found = mlcroissant.Dataset(jsonld=str(several / "croissant.json"))
    assert list(found.metadata.ctx.issues.errors) == []
    fields = {field.name: field for field in found.metadata.record_sets[1].fields}
    with pa.memory_map(str(next(several.glob("val-*.arrow")))) as file:
        schema = pa.ipc.open_file(file).schema
    assert set(fields) == set(schema.names) - {"segments"}
    assert {name for name, field in fields.items() if field.is_array} == {"labels", "difficult", "boxes"}
    inner = schema.field("boxes").type.value_type
    assert [field.name for field in fields["boxes"].sub_fields] == [each.name for each in inner]


def test_another_reader_finds_what_the_description_says(several, tmp_path):
    """MLCommons' reader knows no Arrow files: it reads the same rows and description with Parquet."""
    text = (several / "croissant.json").read_text().replace(ARROW, "application/x-parquet")
    rows: list[dict[str, Any]] = []
    for shard in read_manifest(several).splits["val"].shards:
        table = pa.ipc.open_file((several / shard.file).read_bytes()).read_all()
        pq.write_table(table, tmp_path / shard.file)
        text = text.replace(shard.sha256, hashlib.sha256((tmp_path / shard.file).read_bytes()).hexdigest())
        rows += table.to_pylist()
    (tmp_path / "croissant.json").write_text(text)
    read = list(mlcroissant.Dataset(jsonld=str(tmp_path / "croissant.json")).records("val"))
    assert len(read) == len(rows) > 16
    for found, row in zip(read, rows, strict=True):
        assert found["val/key"].decode() == row["key"]
        assert (list(found["val/labels"]), list(found["val/difficult"])) == (row["labels"], row["difficult"])
        (box,), (expected,) = found["val/boxes"], row["boxes"]
        assert {name.rpartition("/")[2]: value for name, value in box.items()} == {
            **expected,
            "label": b"",
        }


def test_its_classes_are_the_labels_in_order(digits):
    found = json.loads((digits / "croissant.json").read_text())
    (classes,) = [each for each in found["recordSet"] if each["@id"] == "classes"]
    assert [(row["classes/label"], row["classes/name"]) for row in classes["data"]] == list(
        enumerate(read_manifest(digits).class_names)
    )
