"""A net says if its training has not come to its end, and what it started from."""

import json
import shutil
from pathlib import Path

import pytest

from pipelines.shards.manifest import read_manifest
from pipelines.storage.folder import Folder
from tests.commands.test_evaluate import save_net
from vgg.recipes.difference import flatten_saved
from vgg.weights import retention
from vgg.weights.finished import is_finished
from vgg.weights.open_net import open_net

LABEL = "tiny-imagenet-16 (overridden)"


@pytest.fixture
def run(digits, tmp_path):
    return save_net(tmp_path / "run", digits, seed=3)


def end(run, **change):
    """Leave what a training leaves at its end."""
    metadata = retention.open_checkpoint(run).metadata
    result = {
        "settings": flatten_saved(metadata["recipe"]),
        "seed": metadata["seed"],
        "data": {"digest": metadata["data"]},
    }
    for key, value in change.items():
        result[key] = value(result[key]) if callable(value) else value
    Path(run, "result.json").write_text(json.dumps(result))


def test_a_training_that_has_ended_is_not_noted(run):
    assert open_net(run).recipe == f"{LABEL} (unfinished)"
    end(run)
    assert open_net(run).recipe == LABEL
    checkpoint = Folder(run).child("checkpoints/step-00000001").uri
    assert open_net(checkpoint).recipe == LABEL


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"data": {"digest": "other"}},
        {"settings": lambda settings: {**settings, "train.epochs": 1.0}},
        {"settings": None},
    ],
)
def test_the_end_of_another_training_is_not_its_end(run, change):
    """Of a shorter one that was resumed in the same folder, say."""
    end(run, **change)
    assert open_net(run).recipe == f"{LABEL} (unfinished)"


def test_a_checkpoint_away_from_its_run_is_of_no_known_end(run, tmp_path):
    end(run)
    copy = shutil.copytree(Path(run, "checkpoints", "step-00000001"), tmp_path / "copy" / "checkpoint")
    assert not is_finished(str(copy), retention.open_checkpoint(run).metadata)


def ancestor(**change):
    return {
        "weights_sha256": "a" * 64,
        "recipe": "paper-d",
        "difference": {},
        "seed": 0,
        "data": "digest",
        "finished": True,
        **change,
    }


@pytest.mark.parametrize(
    ("change", "noted"),
    [
        ({}, "paper-d"),
        ({"difference": {"train.batch": [256, 128]}}, "paper-d (overridden)"),
        ({"difference": {"train.steps": [None, 1000]}}, "paper-d (overridden)"),
        ({"finished": False}, "paper-d (unfinished)"),
        ({"data": "other"}, "paper-d (other data)"),
        ({"weights_sha256": ""}, "paper-d (unknown weights)"),
        ({"weights_sha256": "nobody"}, "paper-d (unknown weights)"),
        ({"weights_sha256": "b" * 64}, "paper-d (unknown weights)"),
    ],
)
def test_the_lineage_says_what_is_not_as_it_should_be(digits, tmp_path, change, noted):
    """At any distance; a net that is there twice is told too."""
    data = read_manifest(digits).digest
    lineage = [ancestor(weights_sha256="b" * 64, data=data), ancestor(**{"data": data, **change})]
    net = open_net(save_net(tmp_path / "run", digits, seed=3, lineage=lineage))
    assert net.started_from[1] == noted
