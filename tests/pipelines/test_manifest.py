"""A manifest is refused in one line, or is what it says: also when it was edited, cut or forged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.errors import UserError
from pipelines.shards.manifest import MANIFEST, Manifest, read_manifest
from pipelines.shards.reader import Shards

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["..", "/etc/passwd", MANIFEST, "0" * 64, [], {}, [[]], -1, 0, 99_999, "20", 1e308]),
    st.lists(st.integers(-5, 300), max_size=4),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The path of every value inside a JSON value."""
    inside: list[tuple] = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        inside += places(child, (*path, key))
    return inside


def changed(value: Any, path: tuple, kind: str, new: Any) -> Any:
    """A copy of a JSON value in which the value at `path` is set, deleted, doubled or given a stray key."""
    copied = json.loads(json.dumps(value))
    if not path:
        return new
    parent = copied
    for key in path[:-1]:
        parent = parent[key]
    if kind == "delete":
        del parent[path[-1]]
    elif kind == "double" and isinstance(parent, list):
        parent.append(parent[path[-1]])
    elif kind == "stray" and isinstance(parent, dict):
        parent["stray"] = new
    else:
        parent[path[-1]] = new
    return copied


@pytest.fixture(scope="module")
def whole(digits) -> tuple[Path, dict]:
    return digits, json.loads((digits / MANIFEST).read_text())


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_manifest_is_refused_or_holds(whole, tmp_path, data):
    """Never a traceback; what loads is consistent and opens only shards that agree with it."""
    digits, sound = whole
    mutated = sound
    for _ in range(data.draw(st.integers(1, 3))):
        if isinstance(mutated, dict | list):
            path = data.draw(st.sampled_from(places(mutated)))
            kind = data.draw(st.sampled_from(["set", "delete", "double", "stray"]))
            mutated = changed(mutated, path, kind, data.draw(VALUES))
    text = json.dumps(mutated)
    if data.draw(st.integers(0, 9)) == 0:
        text = text[: data.draw(st.integers(0, len(text)))]
    (tmp_path / MANIFEST).write_text(text)
    said = ""
    try:
        manifest = read_manifest(tmp_path)
    except UserError as error:
        said = str(error)
    if said:
        assert "\n" not in said
        assert MANIFEST in said
        return
    assert Manifest.from_json(manifest.to_json()) == manifest
    for name in manifest.splits:
        try:
            shards = Shards(digits, manifest, name)
        except UserError:
            continue
        assert len(shards) == manifest.splits[name].images
        assert not len(shards) or shards.labels_N.max() < len(manifest.classes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 7}, "has format 7, this version reads 1, 2, 3, 4, 5, 6"),
        ({"format": "1"}, "has format '1'"),
        ({"classes": ["0"], "class_names": ["zero"]}, None),
        ({"classes": []}, "classes"),
        ({"classes": ["0"] * 10}, "class 0 is listed twice"),
        ({"class_names": ["zero"]}, "10 classes but 1 class_names"),
        ({"mean_rgb": [1.0, 2.0, float("nan")]}, "mean_rgb.2"),
        ({"mean_rgb": [1.0, 2.0, 300.0]}, "mean_rgb must be 3 numbers from 0 to 255"),
        ({"covariance_rgb": [[1, 0, 0], [0, -1, 0], [0, 0, 1]]}, "no negative variance"),
        ({"boxes": {"images": {"train": 0, "val": 0, "more": 0}, "mean": None}}, "boxes of split more"),
        ({"boxes": {"images": {"train": 0, "val": 99_999}, "mean": None}}, "boxes of split val"),
        ({"boxes": {"images": {"train": 3, "val": 0}, "mean": None}}, "a mean box goes with"),
        ({"boxes": {"images": {"train": 0, "val": 0}, "mean": [0.1, 0.1, 0.9, 1.1]}}, "a mean box goes with"),
        ({"boxes": {"images": {"train": 1, "val": 0}, "mean": [0.1, 0.1, 0.9, 1.1]}}, "fractions"),
        ({"boxes": None}, "boxes are counted from format 3 on"),
        ({"comment": "mine"}, "comment"),
        ({"set_aside": None}, "set_aside"),
        ({"splits": []}, "splits"),
    ],
)
def test_what_is_wrong_is_named(whole, tmp_path, change, said):
    _, sound = whole
    (tmp_path / MANIFEST).write_text(json.dumps({**sound, **change}))
    if said is None:
        read_manifest(tmp_path)  # only the shards can tell
        return
    with pytest.raises(UserError, match=said):
        read_manifest(tmp_path)


@pytest.mark.parametrize("rows", [-1, "20", 99_999, 1.5, None, True])
@pytest.mark.parametrize("of", ["shard", "index", "both"])
def test_rows_that_the_shards_do_not_hold(whole, tmp_path, rows, of):
    digits, sound = whole
    edited = json.loads(json.dumps(sound))
    split = edited["splits"]["train"]
    if of in ("shard", "both"):
        split["shards"][0]["rows"] = rows
    if of in ("index", "both"):
        split["index"]["rows"] = rows
    (tmp_path / MANIFEST).write_text(json.dumps(edited))
    with pytest.raises(UserError, match="rows"):
        Shards(digits, read_manifest(tmp_path), "train")


def test_fewer_classes_than_labels(whole, tmp_path):
    digits, sound = whole
    edited = {**sound, "classes": sound["classes"][:4], "class_names": sound["class_names"][:4]}
    (tmp_path / MANIFEST).write_text(json.dumps(edited))
    with pytest.raises(UserError, match="labels go from 0 to 9, the manifest has 4 classes"):
        Shards(digits, read_manifest(tmp_path), "train")


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", "7", "[" * 100_000, "\xff", '{"format": 1}', "{'a': 1}"]
)
def test_json_that_is_no_manifest(tmp_path, text):
    (tmp_path / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        read_manifest(tmp_path)


def test_the_digest_is_of_the_canonical_text(whole):
    """It is in every checkpoint and result: reading must not change it."""
    digits, sound = whole
    manifest = read_manifest(digits)
    assert json.loads(manifest.to_json()) == sound
    assert manifest.to_json() == (digits / MANIFEST).read_text()
    assert np.isclose(manifest.covariance_rgb, sound["covariance_rgb"], rtol=0, atol=0).all()
