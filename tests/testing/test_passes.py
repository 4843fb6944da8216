"""Passes over a split: scored by whatever runs the tasks, saved by block, never scored twice."""

from dataclasses import replace

import numpy as np
import pytest

from cli.errors import UserError
from pipelines.shards.manifest import Split, read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.staging import StagingOptions
from pipelines.storage.folder import Folder
from vgg.testing.passes import PassOfNet, score_passes
from vgg.testing.protocols import Pass
from vgg.testing.provenance import EnsembleMember, Provenance
from vgg.testing.scoring import BLOCK, ScoringJob

CLASSES = 10


@pytest.fixture
def job(digits):
    return ScoringJob((), StagingOptions(str(digits)), "val")


def pass_of_net(folder, scale=32, precision="fp32"):
    member = EnsembleMember("d-1", "sha", "digits", "D", "32", "dense", scale, "scores", 1, precision)
    classes = tuple("0123456789")
    provenance = Provenance("digest", "digits", "val", classes, classes, ((member, 1.0),))
    return PassOfNet(0, Pass("dense", scale), Folder(str(folder)), provenance)


class Runner:
    """Scores tasks in this process, the last first; remembers them."""

    def __init__(self):
        self.tasks = []

    def __call__(self, tasks):
        self.tasks += tasks
        for task in reversed(tasks):
            images = np.arange(task.first, task.stop)
            yield task, np.float32(np.eye(CLASSES)[(images + task.pass_.scale) % CLASSES])


def score(job, *passes):
    runner = Runner()
    return score_passes(job, passes, runner), runner.tasks


def test_every_image_is_scored_once_and_in_order(job, digits, tmp_path):
    shards = Shards(digits, read_manifest(digits), "val")
    passes = [pass_of_net(tmp_path, scale) for scale in (32, 33)]
    scored, tasks = score(job, *passes)
    assert len(tasks) == 2 * -(-len(shards) // BLOCK) > 2
    for each in passes:
        found = scored[each.key]
        assert found.keys == tuple(shards.key(i) for i in range(len(shards)))
        assert found.labels_N.tolist() == shards.labels_N.tolist()
        expected = (np.arange(len(shards)) + each.pass_.scale) % CLASSES
        assert found.posteriors_NK.argmax(1).tolist() == expected.tolist()


def test_what_is_saved_is_not_scored_again(job, tmp_path):
    """Nor are tasks run if there are none: no cluster is joined for them."""
    first, _ = score(job, pass_of_net(tmp_path))
    (tmp_path / "parts" / "dense-32" / f"{BLOCK:08d}.arrow").unlink()
    again, tasks = score(job, pass_of_net(tmp_path))
    assert [task.first for task in tasks] == [BLOCK]
    assert again[0, Pass("dense", 32)].digest == first[0, Pass("dense", 32)].digest

    def refuse(tasks):
        raise AssertionError("called without a task")

    saved = score_passes(job, [pass_of_net(tmp_path)], refuse)
    assert saved[0, Pass("dense", 32)].digest == first[0, Pass("dense", 32)].digest


def test_blocks_of_other_settings_are_scored_again(job, tmp_path):
    _, tasks = score(job, pass_of_net(tmp_path, precision="bf16"))
    _, again = score(job, pass_of_net(tmp_path, precision="fp32"))
    assert again == tasks


def test_what_was_scored_before_an_error_is_kept(job, tmp_path):
    class Breaks(Runner):
        def __call__(self, tasks):
            yield next(super().__call__(tasks))
            raise RuntimeError("a worker died")

    with pytest.raises(RuntimeError, match="a worker died"):
        score_passes(job, [pass_of_net(tmp_path)], Breaks())
    _, tasks = score(job, pass_of_net(tmp_path))
    assert [task.first for task in tasks] == [0]


def test_a_split_without_images_is_refused(job, digits, tmp_path):
    manifest = read_manifest(digits)
    splits = {**manifest.splits, "val": Split(())}
    (tmp_path / "manifest.json").write_text(replace(manifest, splits=splits).to_json())
    with pytest.raises(UserError, match="has no image in split 'val'"):
        score(replace(job, data=StagingOptions(str(tmp_path))), pass_of_net(tmp_path))
