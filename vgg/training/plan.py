"""A recipe resolved against its data, once: what the command, the run's folder, workers and observers read."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cli.errors import UserError
from pipelines.shards.manifest import Manifest
from vgg.net.architecture import Architecture
from vgg.recipes.check import check_steps
from vgg.recipes.difference import START_FROM, difference, flatten, with_added_settings
from vgg.recipes.registry import RECIPES
from vgg.recipes.schema import Recipe
from vgg.training.lineage import Ancestor, lineage_of
from vgg.training.starting_weights import START_FROM_FLAG, require_fit
from vgg.weights.retention import open_checkpoint

FREE_TO_CHANGE = {"train.epochs", "train.steps", "train.checkpoint_steps", "train.log_steps"}
"""A training may be resumed with other values of these: they do not affect the steps already made."""

SPLITS = ("train", "val")
"""What a training reads of its data set."""


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
    lineage: tuple[Ancestor, ...]
    """The nets whose weights it starts from, the nearest first."""

    @classmethod
    def resolve(
        cls, recipe_name: str, recipe: Recipe, seed: int, data: str, manifest: Manifest
    ) -> "TrainingPlan":
        """UserError where the recipe does not fit the data, the data lacks a split, or `--model.start-from`
        names no sound checkpoint, or one whose weights do not fit the net."""
        architecture = recipe.architecture(len(manifest.classes))
        for split in SPLITS:
            if split not in manifest.splits or not manifest.splits[split].images:
                raise UserError(f"{data} has no images in split {split!r}; a training needs both")
        steps = recipe.total_steps(manifest.splits["train"].images)
        check_steps(steps)
        lineage: tuple[Ancestor, ...] = ()
        if (start_from := recipe.model.start_from) is not None:
            checkpoint = open_checkpoint(start_from, START_FROM_FLAG)
            require_fit(architecture, recipe.model, checkpoint.model)
            lineage = lineage_of(start_from, checkpoint)
        return cls(recipe_name, recipe, seed, data, manifest, architecture, steps, lineage)

    @property
    def train_images(self) -> int:
        """Images of the training split."""
        return self.manifest.splits["train"].images

    @property
    def val_images(self) -> int:
        """Images of the validation split."""
        return self.manifest.splits["val"].images

    def epochs(self, step: int) -> float:
        """Passes over the training split after `step` updates."""
        return step * self.recipe.train.batch / self.train_images

    def completed_epochs(self, step: int) -> int:
        """Whole passes over the training split after `step` updates."""
        return step * self.recipe.train.batch // self.train_images

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
