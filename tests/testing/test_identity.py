"""The identity of a test, its folder's name, and results that never replace each other."""

from dataclasses import fields, replace
from itertools import pairwise

import pytest

from cli.errors import UserError
from pipelines.storage.folder import Folder
from tests.testing.test_posteriors import made_up, member
from vgg.ensemble import EnsembleOptions, ensemble
from vgg.reporting.evaluation_run import run_info
from vgg.reporting.publish import publish
from vgg.reporting.result_folder import result_folder
from vgg.testing.identity import evaluation_name, identity
from vgg.testing.posteriors import mean, read
from vgg.testing.protocols import Evaluation
from vgg.testing.provenance import EnsembleMember

USUAL = replace(member(), trained_on="digest of the data")


def of(change=None, data=None, split="val", seed=1):
    each = made_up(seed, replace(USUAL, **(change or {})))
    return replace(each, provenance=replace(each.provenance, data=data or each.provenance.data, split=split))


OTHERS = {
    "dense-256-train": of(split="train"),
    "dense-256-data-0123abcd": of(data="0123abcdef"),
    "dense-256-train-data-0123abcd": of(data="0123abcdef", split="train"),
    "dense-256-posteriors": of({"average": "posteriors"}),
    "dense-256-bf16": of({"precision": "bf16"}),
    "dense-256-posteriors-fp16": of({"average": "posteriors", "precision": "fp16"}),
    "multi-crop-256": of({"protocol": "multi-crop", "grid": 5}),
    "multi-crop-256-grid2": of({"protocol": "multi-crop", "grid": 2}),
    "dense-288": of({"scale": 288}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_folders_name_tells_what_is_not_usual(name):
    other = OTHERS[name]
    ((tested, _),) = other.provenance.members
    assert evaluation_name(Evaluation(tested.protocol, (tested.scale,)), other.provenance) == name
    assert evaluation_name(Evaluation("dense", (256,)), of().provenance) == "dense-256"


def test_whatever_differs_is_another_identity():
    images = len(of().keys)
    others = [each.identity for each in OTHERS.values()]
    others += [identity(of().provenance, images - 1), of({"weights_sha256": "other"}).identity]
    assert len({of().identity, *others}) == len(others) + 1
    assert of(seed=2).identity == of().identity, "whatever it found"


def test_results_of_other_tests_never_replace_each_other(tmp_path):
    """Even under one name, as an earlier version left them."""
    parent = Folder(str(tmp_path))
    for each in OTHERS.values():
        publish(result_folder(parent, "dense-256", each.identity), each, None, "vgg", kind="eval")
    assert len(list(tmp_path.iterdir())) == len(OTHERS)
    for each in OTHERS.values():
        again = result_folder(parent, "dense-256", each.identity)
        assert read(again, "posteriors.arrow").digest == each.digest


def test_a_repeated_test_replaces_itself(tmp_path):
    parent = Folder(str(tmp_path))
    for each in (of(seed=1), of(seed=2)):
        publish(result_folder(parent, "dense-256", each.identity), each, None, "vgg", kind="eval")
    assert [folder.name for folder in tmp_path.iterdir()] == ["dense-256"]
    assert read(parent, "dense-256/posteriors.arrow").digest == of(seed=2).digest


def test_an_ensemble_does_not_replace_another(tmp_path):
    names = []
    for scale in (256, 288, 320):
        names.append(str(tmp_path / str(scale)))
        publish(Folder(names[-1]), of({"scale": scale}), None, "vgg", kind="eval")
    first, second = pairwise(names)
    out = str(tmp_path / "out")
    ensemble(EnsembleOptions(first, out))
    assert ensemble(EnsembleOptions(first, out)).result["scales"] == [256, 288]
    with pytest.raises(UserError, match=r"--out .*out holds the result of another test"):
        ensemble(EnsembleOptions(second, out))


CHANGES = {
    "weights_sha256": "other",
    "recipe": "paper-d (overridden)",
    "protocol": "single-crop",
    "scale": 257,
    "average": "posteriors",
    "grid": 3,
    "precision": "bf16",
    "trained_on": "other data",
    "started_from": ("paper-a-normal",),
}
FOLLOW_FROM_WEIGHTS = {"net", "configuration", "trained_at"}


def test_tests_that_differ_in_any_field_never_replace_each_other(tmp_path):
    """On disk under one name, and in MLflow, where a run is found by its uid."""
    assert CHANGES.keys() | FOLLOW_FROM_WEIGHTS == {field.name for field in fields(EnsembleMember)}
    tests = [of(), of(data="other"), of(split="test"), *(of({name: value}) for name, value in CHANGES.items())]
    parent = Folder(str(tmp_path))
    uids = set()
    for each in tests:
        done = publish(result_folder(parent, "dense-256", each.identity), each, None, "vgg", kind="eval")
        uids.add(run_info(done.result, each, "uri", experiment="vgg").uid)
    assert len(uids) == len(list(tmp_path.iterdir())) == len(tests)
    for each in tests:
        folder = result_folder(parent, "dense-256", each.identity)
        assert read(folder, "posteriors.arrow").provenance == each.provenance


def test_an_identity_does_not_depend_on_the_order():
    one, other = of(), of({"scale": 288})
    assert mean([one, other]).identity == mean([other, one]).identity
