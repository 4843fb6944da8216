"""The Croissant description of a packed data set, read by MLCommons' own checker."""

import hashlib
import json
from pathlib import Path

import mlcroissant
import pyarrow as pa
import pytest

from pipelines.packing.croissant import CONFORMS_TO
from pipelines.shards.manifest import read_manifest


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


def test_its_classes_are_the_labels_in_order(digits):
    found = json.loads((digits / "croissant.json").read_text())
    (classes,) = [each for each in found["recordSet"] if each["@id"] == "classes"]
    assert [(row["classes/label"], row["classes/name"]) for row in classes["data"]] == list(
        enumerate(read_manifest(digits).class_names)
    )
