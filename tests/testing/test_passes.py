"""Passes over a split: scored by whatever runs the tasks, saved by block, never scored twice."""

from dataclasses import replace

import numpy as np
import pytest

from cli.errors import Failure, UserError
from pipelines.shards.manifest import Split, read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.staging import StagingOptions
from pipelines.storage.folder import Folder
from vgg.testing import posteriors
from vgg.testing.opened_split import SplitOptions
from vgg.testing.passes import Images, PassOfNet, score_passes
from vgg.testing.protocols import Pass
from vgg.testing.provenance import EnsembleMember, Provenance
from vgg.testing.scoring import BLOCK, ScoredBlock, ScoringJob

CLASSES = 10


@pytest.fixture
def job(digits):
    return ScoringJob((), SplitOptions(StagingOptions(str(digits)), "val"))


def pass_of_net(folder, scale=32, precision="fp32"):
    member = EnsembleMember("d-1", "sha", "digits", "D", "32", "dense", scale, "scores", 1, precision)
    classes = tuple("0123456789")
    provenance = Provenance("digest", "digits", "val", classes, classes, ((member, 1.0),))
    return PassOfNet(0, Pass("dense", scale), Folder(str(folder)), provenance)


class Runner:
    """Scores tasks in this process, the last first; remembers them."""

    def __init__(self, precision="fp32"):
        self.tasks, self.precision = [], precision

    def __call__(self, tasks):
        self.tasks += tasks
        for task in reversed(tasks):
            images = np.arange(task.first, task.stop)
            posteriors_BK = np.eye(CLASSES, dtype=np.float32)[(images + task.pass_.scale) % CLASSES]
            yield task, ScoredBlock(posteriors_BK, self.precision)


def score(job, *passes, precision="fp32"):
    runner = Runner(precision)
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
        assert np.asarray(found.posteriors_NK).argmax(1).tolist() == expected.tolist()


def test_what_is_saved_is_not_scored_again(job, tmp_path):
    """Nor are tasks run if there are none: no cluster is joined for them."""
    first, _ = score(job, pass_of_net(tmp_path))
    (block,) = tmp_path.glob(f"parts/dense-32*/fp32-{BLOCK:08d}.arrow")
    block.unlink()
    again, tasks = score(job, pass_of_net(tmp_path))
    assert [task.first for task in tasks] == [BLOCK]
    assert again[0, Pass("dense", 32)].digest == first[0, Pass("dense", 32)].digest

    def refuse(tasks):
        raise AssertionError("called without a task")

    saved = score_passes(job, [pass_of_net(tmp_path)], refuse)
    assert saved[0, Pass("dense", 32)].digest == first[0, Pass("dense", 32)].digest


def members(scored):
    return {member for each in scored.values() for member, _ in each.provenance.members}


def test_blocks_of_another_precision_are_scored_again_and_kept(job, tmp_path):
    """Each precision has blocks of its own, and the result names what the workers scored in."""
    net_pass = pass_of_net(tmp_path, precision="auto")
    for precision in ("bf16", "fp32"):
        asked = replace(job, split=replace(job.split, precision=precision))
        scored, tasks = score(asked, net_pass, precision=precision)
        assert len(tasks) == 2
        assert {member.precision for member in members(scored)} == {precision}
    for precision in ("bf16", "fp32"):
        scored, tasks = score(replace(job, split=replace(job.split, precision=precision)), net_pass)
        assert not tasks
        assert {member.precision for member in members(scored)} == {precision}


def test_blocks_of_two_precisions_are_never_put_together(job, tmp_path):
    """Interrupted on workers of one kind and resumed on others."""

    class Breaks(Runner):
        def __call__(self, tasks):
            yield next(super().__call__(tasks))
            raise RuntimeError("a worker died")

    net_pass = pass_of_net(tmp_path, precision="auto")
    with pytest.raises(RuntimeError):
        score_passes(job, [net_pass], Breaks("bf16"))
    scored, tasks = score(job, net_pass, precision="fp32")
    assert {task.first for task in tasks} == set(range(0, len(scored[net_pass.key].keys), BLOCK))
    assert {member.precision for member in members(scored)} == {"fp32"}


def test_workers_that_differ_in_precision_are_reported(job, tmp_path):
    class Mixed(Runner):
        def __call__(self, tasks):
            for i, (task, scored) in enumerate(super().__call__(tasks)):
                yield task, replace(scored, precision=("bf16", "fp32")[i % 2])

    with pytest.raises(Failure, match="bf16, another in fp32: name one for all with --precision"):
        score_passes(job, [pass_of_net(tmp_path, precision="auto")], Mixed())


@pytest.mark.parametrize(
    "change",
    [
        lambda p: replace(p, split="train"),
        lambda p: replace(p, data="another"),
        lambda p: replace(p, members=((replace(p.members[0][0], average="posteriors"), 1.0),)),
        lambda p: replace(p, members=((replace(p.members[0][0], weights_sha256="other"), 1.0),)),
    ],
)
def test_blocks_of_another_test_are_neither_used_nor_replaced(job, tmp_path, change):
    net_pass = pass_of_net(tmp_path)
    other = replace(net_pass, provenance=change(net_pass.provenance))
    first, second = score(job, net_pass)[1], score(job, other)[1]
    assert first == second
    for again in (net_pass, other):
        assert not score(job, again)[1]


@pytest.mark.parametrize("change", [{"recipe": "digits (unfinished)"}, {"started_from": ("paper-a",)}])
def test_a_net_of_which_more_is_known_is_not_scored_again(job, tmp_path, change):
    """The numbers are the same; the result says what is known now."""
    net_pass = pass_of_net(tmp_path)
    ((member, weight),) = net_pass.provenance.members
    told = replace(net_pass.provenance, members=((replace(member, **change), weight),))
    score(job, net_pass)
    scored, tasks = score(job, replace(net_pass, provenance=told))
    assert not tasks
    assert scored[net_pass.key].provenance == told


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
        score(replace(job, split=replace(job.split, data=StagingOptions(str(tmp_path)))), pass_of_net(tmp_path))


def other_images(block):
    return replace(block, keys=block.keys[::-1])


def other_labels(block):
    return replace(block, labels_N=(block.labels_N + 1) % CLASSES)


def fewer_images(block):
    part = np.asarray(block.posteriors_NK)[:-1]
    return replace(block, keys=block.keys[:-1], labels_N=block.labels_N[:-1], posteriors_NK=part)


@pytest.mark.parametrize("change", [other_images, other_labels, fewer_images])
def test_a_block_that_is_not_of_its_images_is_scored_again(job, tmp_path, change):
    """With a digest that is right: as one of another order of the split, or of other blocks, would be."""
    net_pass = pass_of_net(tmp_path)
    expected = score(job, net_pass)[0][net_pass.key].digest
    name = net_pass.block_file("fp32", BLOCK)
    folder = Folder(str(tmp_path))
    posteriors.write(folder, name, change(posteriors.read(folder, name)))
    scored, tasks = score(job, net_pass)
    assert [task.first for task in tasks] == [BLOCK]
    assert scored[net_pass.key].digest == expected


def test_a_block_that_changes_while_it_is_read_is_reported(job, tmp_path):
    net_pass = pass_of_net(tmp_path)
    scored, _ = score(job, net_pass)
    folder, name = Folder(str(tmp_path)), net_pass.block_file("fp32", BLOCK)
    posteriors.write(folder, name, other_labels(posteriors.read(folder, name)))
    with pytest.raises(Failure, match="changed while it was read"):
        np.asarray(scored[net_pass.key].posteriors_NK)


def test_an_image_that_is_in_the_split_twice_is_reported(digits, monkeypatch):
    shards = Shards(digits, read_manifest(digits), "val")
    monkeypatch.setattr(Shards, "key", lambda self, i: "twice" if i in (3, 9) else str(i))
    with pytest.raises(UserError, match="has the image twice twice in split 'val'"):
        Images.of(shards, digits, "val")
