"""Which folder a demo trains in: a stopped one's goes on, a finished one's is left as it is."""

import json
from dataclasses import replace

import pytest

from demo.runs import run_folder
from pipelines.shards.manifest import read_manifest
from pipelines.storage.folder import Folder
from vgg.recipes.registry import RECIPES
from vgg.training.plan import TrainingPlan
from vgg.training.run_folder import claim_folder


@pytest.fixture
def plan(digits):
    return TrainingPlan.resolve("digits", RECIPES["digits"][1], 0, str(digits), read_manifest(digits))


def claimed(folder, plan):
    """The folder as a training that was stopped leaves it."""
    claim_folder(Folder(str(folder)), plan)
    return folder


def trained(folder, plan):
    claimed(folder, plan)
    (folder / "result.json").write_text("{}")
    return folder


def evaluated(folder, plan, *protocols):
    trained(folder, plan)
    for protocol in protocols:
        result = folder / "evaluations" / "A-step-00000240" / protocol / "result.json"
        result.parent.mkdir(parents=True)
        result.write_text("{}")
    return folder


def test_the_first_demo_has_a_new_folder_without_a_word(tmp_path, digits):
    assert run_folder(tmp_path / "runs", "digits", digits) == (tmp_path / "runs" / "digits-1", "")


@pytest.mark.parametrize("leave", [claimed, trained, lambda *of: evaluated(*of, "single-crop-32")])
def test_a_stopped_demo_goes_on(tmp_path, digits, plan, leave):
    evaluated(tmp_path / "digits-1", plan, "single-crop-32", "dense-32")
    left = leave(tmp_path / "digits-2", plan)
    assert run_folder(tmp_path, "digits", digits) == (
        left,
        f"{left} holds this demo, not finished: it goes on there",
    )


def test_a_finished_demo_is_made_again_in_a_new_folder(tmp_path, digits, plan):
    done = evaluated(tmp_path / "digits-10", plan, "single-crop-32", "dense-32")
    evaluated(tmp_path / "digits-9", plan)
    new = tmp_path / "digits-11"
    assert run_folder(tmp_path, "digits", digits) == (
        new,
        f"{done} holds this demo, finished: it is made again in {new}",
    )


def other_recipe(plan):
    return replace(plan, recipe=replace(plan.recipe, optim=replace(plan.recipe.optim, lr=0.5)))


def other_images(plan):
    return replace(plan, manifest=replace(plan.manifest, source="other photos"))


@pytest.mark.parametrize("other", [other_recipe, other_images])
def test_a_folder_that_training_would_refuse_is_passed_over(tmp_path, digits, plan, other):
    claimed(tmp_path / "digits-1", other(plan))
    assert run_folder(tmp_path, "digits", digits) == (tmp_path / "digits-2", "")
    left = claimed(tmp_path / "digits-0", plan)
    assert run_folder(tmp_path, "digits", digits)[0] == left, "the newest of these images"


def test_what_is_no_claim_is_passed_over_and_no_number_is_given_twice(tmp_path, digits):
    (tmp_path / "digits-4").mkdir()
    (tmp_path / "digits-4" / "run.json").write_text("[]")
    (tmp_path / "digits-5").mkdir()
    (tmp_path / "digits-wide-9").mkdir()
    assert run_folder(tmp_path, "digits", digits) == (tmp_path / "digits-6", "")
    assert json.loads((tmp_path / "digits-4" / "run.json").read_text()) == []
    assert not (tmp_path / "digits-5" / "run.json").exists()
