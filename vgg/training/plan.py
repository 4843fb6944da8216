"""A recipe resolved against its data, once: what the command, the run's folder, workers and observers read."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cli.errors import UserError
from pipelines.shards.manifest import Manifest
from pipelines.shards.splits import training_splits, validation_split
from vgg.net.architecture import Architecture
from vgg.recipes.check import check_recipe, check_steps
from vgg.recipes.difference import START_FROM, difference, flatten, with_added_settings
from vgg.recipes.fine_tuning import LAST_LAYER, fitted, frozen_layers
from vgg.recipes.registry import RECIPES
from vgg.recipes.schema import Recipe
from vgg.training.lineage import Ancestor, NetOpener, check_pixel_scale, lineage_of
from vgg.training.starting_weights import START_FROM_FLAG, fresh_layers, require_fit
from vgg.weights.open_run import open_run

FREE_TO_CHANGE = {
    "train.bad_numbers",  # while none were met: see `vgg.training.start`
    "train.epochs",
    "train.steps",
    "train.checkpoint_steps",
    "train.checkpoint_seconds",
    "train.keep_epochs",
    "train.log_steps",
    "train.profile",
}
"""A training may be resumed with other values of these: they do not affect the steps already made."""


@dataclass(frozen=True)
class TrainingPlan:
    """What is trained, on what, for how long. The same wherever it runs."""

    recipe_name: str
    recipe: Recipe
    seed: int
    data: str
    """Folder of the packed data set, the same on every node, or its URI."""
    manifest: Manifest
    architecture: Architecture
    total_steps: int
    mean_rgb: tuple[float, float, float]
    """Subtracted from the pixels: of the data, or of the net that it starts from."""
    lineage: tuple[Ancestor, ...]
    """The nets whose weights it starts from, the nearest first."""
    fresh: tuple[str, ...]
    """Layers that do not come from these, but are initialised."""
    frozen: tuple[str, ...]
    """Layers that stay as they are."""

    @classmethod
    def resolve(
        cls,
        recipe_name: str,
        recipe: Recipe,
        seed: int,
        data: str,
        manifest: Manifest,
        open_net: NetOpener = open_run,
    ) -> "TrainingPlan":
        """UserError where the recipe does not fit the data, the data lacks a split, or `--model.start-from`
        names no sound net that fits."""
        start = None
        if recipe.model.start_from is not None:
            start = open_net(recipe.model.start_from, START_FROM_FLAG)
            recipe = fitted(recipe, start.architecture, RECIPES[recipe_name][1])
            check_recipe(recipe)
        architecture = recipe.architecture(len(manifest.classes))
        for split in training_splits(manifest):
            if split not in manifest.splits or not manifest.splits[split].images:
                raise UserError(f"{data} has no images in split {split!r}; a training needs both")
        if recipe.model.boxes is not None:
            _require_boxes(data, manifest)
        steps = recipe.total_steps(_images(recipe, manifest, "train"))
        check_steps(steps)
        resolved = recipe_name, recipe, seed, data, manifest, architecture, steps
        if start is None:
            return cls(*resolved, manifest.mean_rgb, (), (), ())
        lineage = lineage_of(recipe.model.start_from, start)
        fresh = fresh_layers(recipe.model, start, manifest.class_names)
        frozen = frozen_layers(recipe.model, architecture, fresh)
        check_pixel_scale(recipe.model, lineage, frozen)
        require_fit(architecture, recipe.model, fresh, start.weights)
        return cls(*resolved, start.mean_rgb, lineage, fresh, frozen)

    @property
    def train_images(self) -> int:
        """Images of the training split; of a box net, those with a box."""
        return _images(self.recipe, self.manifest, "train")

    @property
    def val_images(self) -> int:
        """Images that it validates on; of a box net, those with a box."""
        return _images(self.recipe, self.manifest, validation_split(self.manifest))

    @property
    def starts_at_mean_box(self) -> bool:
        """Whether its fresh last layer begins with the mean training box."""
        return self.recipe.model.box_start == "mean" and LAST_LAYER in self.fresh

    def epochs(self, step: int) -> float:
        """Passes over the training split after `step` updates."""
        return step * self.recipe.train.batch / self.train_images

    def completed_epochs(self, step: int) -> int:
        """Whole passes over the training split after `step` updates."""
        return step * self.recipe.train.batch // self.train_images

    def kept_epoch(self, step: int) -> int | None:
        """The pass that update `step` ends, if its checkpoint is kept for good (`--train.keep-epochs`)."""
        every, ended = self.recipe.train.keep_epochs, self.completed_epochs(step)
        is_kept = every is not None and ended // every > self.completed_epochs(step - 1) // every
        return ended if is_kept else None

    def validation_is_due(self, step: int) -> bool:
        """Whether update `step` ends a pass, or the last of so many that `--train.validation-steps` updates lie
        between two validations."""
        rows_between = self.recipe.train.validation_steps * self.recipe.train.batch
        passes = -(-rows_between // self.train_images)
        return self.completed_epochs(step) // passes > self.completed_epochs(step - 1) // passes

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What makes it this training and no other: seed, data digest, every setting of the recipe.

        Starting weights are told apart by their digest, wherever they lie.
        """
        settings = flatten(self.recipe)
        if self.lineage:
            settings[START_FROM] = self.lineage[0].weights_sha256
        return {"seed": self.seed, "data": self.manifest.digest, **settings}

    def changes_from(self, identity: Mapping[str, Any]) -> list[str]:
        """How this training differs from the one of that identity, a text for each setting."""
        # Earlier versions kept the path of the starting weights, not their digest.
        by_path = {START_FROM: self.recipe.model.start_from}
        theirs = with_added_settings(identity, flatten(RECIPES[self.recipe_name][1]))
        return [
            f"{key} is {value} there, {self.identity.get(key)} here"
            for key, value in theirs.items()
            if key not in FREE_TO_CHANGE
            and self.identity.get(key) != value
            and (key not in by_path or by_path[key] != value)
        ]

    @cached_property
    def difference(self) -> dict[str, list[Any]]:
        """What was overridden of the recipe of that name: flag -> [the recipe's value, the value here]."""
        return difference(self.recipe, RECIPES[self.recipe_name][1])


def _images(recipe: Recipe, manifest: Manifest, split: str) -> int:
    """Images that a training reads of a split."""
    if recipe.model.boxes is None:
        return manifest.splits[split].images
    assert manifest.boxes is not None
    return manifest.boxes.images.get(split, 0)


def _require_boxes(data: str, manifest: Manifest) -> None:
    if manifest.boxes is None:
        raise UserError(f"{data} was packed by an earlier version, which did not count boxes: pack it again")
    for split in training_splits(manifest):
        if not manifest.boxes.images.get(split):
            raise UserError(
                f"{data} has no image with a box of its own class in split {split!r}: a box net needs them in "
                "both splits (in XML files, objects are named as the class)"
            )
