"""Trainings of box nets: the classifiers' loop, so the same promises."""

import uuid
from dataclasses import replace

import pytest
import torch

from cli.errors import UserError
from cluster.layout import Layout
from pipelines.shards.manifest import read_manifest
from tests.boxes import made
from vgg.recipes.check import check_recipe
from vgg.recipes.registry import BOX_NETS, CLASSIFIERS, RECIPES
from vgg.training.plan import TrainingPlan
from vgg.weights.open_net import open_net
from vgg.weights.retention import open_checkpoint

CONVOLUTIONS = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "conv4_1", "conv4_2", "conv5_1", "conv5_2")


def test_one_two_and_three_workers_end_with_the_same_bits(workers, boxed, classifier, tmp_path):
    asked = made.box_recipe(4, classifier)
    results = [
        workers.run(world, made.job("boxes", boxed, tmp_path / str(world), asked)).result for world in (1, 2, 3)
    ]
    assert len({result["weights_sha256"] for result in results}) == 1
    assert results[0]["validations"][-1]["seen"] == 18, "images with a box alone, each once"
    overlaps = [result["validations"][-1]["mean_iou"] for result in results]
    assert overlaps == pytest.approx([overlaps[0]] * 3, rel=1e-4), "batches of other sizes round otherwise"
    assert results[0]["fresh_layers"] == ["fc8"]


def test_under_ddp_the_losses_agree(workers, boxed, classifier, tmp_path):
    asked, layout = made.box_recipe(3, classifier), Layout(reduce="ddp")
    losses = [
        workers.run(world, made.job("boxes", boxed, tmp_path / str(world), asked, layout)).result["losses"]
        for world in (1, 2)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("boxes", ["single", "per-class"])
def test_interrupted_and_resumed_it_ends_with_the_same_bits(workers, boxed, classifier, tmp_path, boxes):
    recipes = {steps: made.box_recipe(steps, classifier, boxes=boxes) for steps in (2, 5)}
    workers.run(1, made.job("boxes", boxed, tmp_path / "out", recipes[2]))
    resumed = workers.run(2, made.job("boxes", boxed, tmp_path / "out", recipes[5])).result
    straight = workers.run(1, made.job("boxes", boxed, tmp_path / "straight", recipes[5])).result
    assert resumed["resumed_from"] == [2]
    assert resumed["weights_sha256"] == straight["weights_sha256"]
    weights = open_checkpoint(str(tmp_path / "out")).model["fc8.weight"]
    assert len(weights) == (4 if boxes == "single" else 8)


def test_only_fully_connected_layers_tuned(workers, boxed, classifier, tmp_path):
    """As two of table 8's three nets."""
    asked = made.box_recipe(2, classifier, freeze="convolutions")
    workers.run(1, made.job("boxes", boxed, tmp_path, asked))
    before, after = open_net(str(classifier)).weights, open_net(str(tmp_path)).weights
    same = {
        name.split(".")[0]
        for name, value in after.items()
        if name in before and torch.equal(value, before[name])
    }
    assert same == set(CONVOLUTIONS)


def test_boxes_are_learnt(workers, boxed, classifier, tmp_path):
    """On its own training images, by the optimizer that learns fastest."""
    asked = made.box_recipe(120, classifier)
    asked = replace(asked, optim=replace(asked.optim, name="adam", weight_decay=0.0))
    asked = replace(asked, model=replace(asked.model, dropout=0.0))
    result = workers.run(2, made.job("boxes", boxed, tmp_path, asked)).result
    assert {file.name for file in (tmp_path / "pictures").iterdir()} == {
        "boxes.png",
        "curves.png",
        "inputs.png",
    }
    located = [validation["train_top1"] for validation in result["validations"]]
    assert located[0] < 0.3
    assert located[-1] > 0.6


class TestMistakes:
    def test_a_box_net_is_no_classifier(self, boxed, classifier, tmp_path, workers):
        workers.run(1, made.job("boxes", boxed, tmp_path, made.box_recipe(1, classifier)))
        with pytest.raises(UserError, match=r"answers boxes, not classes: python -m vgg\.localise evaluate"):
            open_net(str(tmp_path)).check_classes(read_manifest(boxed), boxed)
        # A classifier that starts from it gets a fresh last layer.
        recipe = made.classifier_recipe(1)
        model = replace(recipe.model, start_from=str(tmp_path))
        asked = made.job("digits", boxed, tmp_path / uuid.uuid4().hex, replace(recipe, model=model))
        assert asked.plan.fresh == ("fc8",)

    def test_data_without_boxes(self, digits, classifier):
        asked = replace(
            made.box_recipe(1, classifier), model=replace(RECIPES["boxes"][1].model, start_from="x")
        )
        with pytest.raises(UserError, match=r"no image with a box of its own class in split 'train'"):
            TrainingPlan.resolve(
                "boxes", replace(asked, model=replace(asked.model, start_from=str(classifier), classes=10)), 0,
                str(digits), read_manifest(digits),
            )  # fmt: skip

    def test_data_packed_by_an_earlier_version(self, boxed, classifier):
        earlier = replace(read_manifest(boxed), format=2, boxes=None)
        with pytest.raises(UserError, match="packed by an earlier version"):
            TrainingPlan.resolve("boxes", made.box_recipe(1, classifier), 0, str(boxed), earlier)

    def test_a_box_net_starts_from_a_classifier(self):
        with pytest.raises(UserError, match=r"--model\.boxes needs --model\.start-from"):
            check_recipe(
                replace(RECIPES["boxes"][1], model=replace(RECIPES["boxes"][1].model, start_from=None))
            )


def test_each_recipe_is_of_one_command():
    assert set(BOX_NETS) | set(CLASSIFIERS) == set(RECIPES)
    assert {name for name in RECIPES if "boxes" in name} == set(BOX_NETS)
