"""A recipe resolved against its data."""

from dataclasses import asdict, replace
from itertools import pairwise

import pytest

from cli.errors import UserError
from pipelines.shards.manifest import Manifest, ShardInfo, Split, read_manifest
from vgg.recipes.difference import ADDED_SETTINGS, saved_difference
from vgg.recipes.registry import RECIPES
from vgg.training.plan import TrainingPlan
from vgg.training.schedule import PlateauState, update_plateau

RECIPE = RECIPES["digits"][1]


def resolve(digits, recipe=RECIPE, seed=0, **changes):
    manifest = replace(read_manifest(digits), **changes)
    return TrainingPlan.resolve("digits", recipe, seed, str(digits), manifest)


def test_steps_and_epochs_follow_from_the_data(digits):
    """30 epochs of 1433 images at 256 a step are 168 steps: 42,990 / 256 = 167.93."""
    plan = resolve(digits)
    assert (plan.train_images, plan.val_images, plan.total_steps) == (1433, 364, 168)
    assert plan.epochs(6) == pytest.approx(6 * 256 / 1433)
    assert [plan.completed_epochs(step) for step in (0, 5, 6, 11, 12)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("updates", "steps"),
    [
        (1, [6, 12, 17, 23, 28]),  # passes of 5.6 updates end there
        (5, [6, 12, 17, 23, 28]),
        (6, [12, 23]),  # a pass is shorter
        (12, [17]),  # so are two
        (30, []),  # six passes end with update 34
    ],
)
def test_validations_lie_at_least_so_many_updates_apart(digits, updates, steps):
    plan = resolve(digits, replace(RECIPE, train=replace(RECIPE.train, validation_steps=updates)))
    assert [step for step in range(1, 31) if plan.validation_is_due(step)] == steps


def test_photos_validates_and_drops_in_updates_whatever_the_passes():
    """Of 108 images a pass is 1.7 updates: validations lie 25 apart, and the rate does not drop before 100."""
    recipe = RECIPES["photos"][1]
    splits = {"train": Split((ShardInfo("a", 108, 1, ""),)), "val": Split((ShardInfo("b", 12, 1, ""),))}
    manifest = Manifest(1, "photos", ("a", "b"), ("a", "b"), splits, (0.0,) * 3, ((0.0,) * 3,) * 3, ())
    plan = TrainingPlan.resolve("photos", recipe, 0, "data", manifest)
    due = [step for step in range(1, plan.total_steps + 1) if plan.validation_is_due(step)]
    assert min(later - earlier for earlier, later in pairwise([0, *due])) >= 25
    state, drops = PlateauState(), []
    for step in due:
        before = state.drops
        state = update_plateau(state, 0.5, 1.0, step, recipe.schedule)
        drops += [step] * (state.drops - before)
    assert drops[0] >= 100
    assert min(later - earlier for earlier, later in pairwise(drops)) >= 100


def test_identity_is_of_data_seed_and_every_setting(digits):
    plan = resolve(digits)
    others = [
        resolve(digits, seed=1),
        resolve(digits, source="another"),
        resolve(digits, replace(RECIPE, optim=replace(RECIPE.optim, lr=0.02))),
    ]
    assert plan.identity == resolve(digits).identity
    for other in others:
        assert len([key for key in plan.identity if plan.identity[key] != other.identity[key]]) == 1


def test_difference_is_from_the_recipe_of_that_name(digits):
    assert resolve(digits).difference == {}
    changed = replace(RECIPE, optim=replace(RECIPE.optim, lr=0.02))
    assert resolve(digits, changed).difference == {"optim.lr": [0.01, 0.02]}


def test_data_without_a_split(digits):
    manifest = read_manifest(digits)
    assert manifest.boxes is not None
    boxes = replace(manifest.boxes, images={"train": manifest.boxes.images["train"]})
    with pytest.raises(UserError, match="no images in split 'val'"):
        resolve(digits, splits={"train": manifest.splits["train"]}, boxes=boxes)


class TestEarlierVersions:
    """Recipes that they saved lack the settings that came later."""

    def saved(self, plan):
        """The identity that the version before `schedule.patience_steps` kept."""
        return {key: value for key, value in plan.identity.items() if key not in ADDED_SETTINGS}

    def test_their_training_goes_on(self, digits):
        plan = resolve(digits)
        assert plan.changes_from(self.saved(plan)) == []

    def test_unless_such_a_setting_is_overridden(self, digits):
        changed = resolve(digits, replace(RECIPE, schedule=replace(RECIPE.schedule, patience_steps=40)))
        (change,) = changed.changes_from(self.saved(resolve(digits)))
        assert change == "schedule.patience_steps is 0 there, 40 here"

    def test_an_unmodified_recipe_stays_unmodified(self):
        for _, recipe in RECIPES.values():
            saved = asdict(recipe)
            for name in ADDED_SETTINGS:
                part, setting = name.split(".")
                del saved[part][setting]
            assert saved_difference(saved, asdict(recipe)) == {}

    def test_their_box_nets_started_at_random(self):
        for name, changes in (("boxes", {"model.box_start": ["mean", "random"]}), ("paper-d-boxes-384", {})):
            saved = asdict(RECIPES[name][1])
            del saved["model"]["box_start"]
            assert saved_difference(saved, asdict(RECIPES[name][1])) == changes

    def test_a_setting_that_was_always_there_must_be_there(self):
        saved = asdict(RECIPE)
        del saved["optim"]["lr"]
        assert saved_difference(saved, asdict(RECIPE)) == {"optim.lr": [0.01, None]}
