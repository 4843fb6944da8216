"""A trained net: weights, and all that testing them needs to know."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pipelines.shards.manifest import Manifest
from vgg.net.architecture import Architecture
from vgg.net.module import VGG
from vgg.recipes.registry import RECIPES
from vgg.recipes.schema import Input
from vgg.weights.state import weights_sha256


@dataclass(frozen=True)
class TrainedNet:
    """Weights, and all that testing them must know."""

    name: str
    """Recipe and the first digits of the weights' digest."""
    architecture: Architecture
    weights: dict[str, torch.Tensor]
    weights_sha256: str
    mean_rgb: tuple[float, float, float]
    """What is subtracted from pixels of 0 to 255."""
    crop: Input
    """The training scale, from which the test scales are derived."""
    recipe: str
    """Its name, and that it was overridden where it was."""
    class_names: tuple[str, ...] | None
    """In the order of the outputs; None where the source does not say."""
    seed: int | None = None

    @property
    def trained_at(self) -> str:
        """Training scale S: 256, or 256-512 where it was drawn."""
        least, most = self.crop.min_scale, self.crop.max_scale
        return f"{least}" if least == most else f"{least}-{most}"

    def module(self) -> VGG:
        """The net itself, on the CPU, for scoring."""
        net = VGG(self.architecture)
        net.load_state_dict(self.weights)
        return net.to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def check(self, manifest: Manifest, folder: object) -> None:
        """ValueError where the net's classes are not those of the data."""
        if len(manifest.classes) != self.architecture.classes:
            raise ValueError(
                f"{self.name} has {self.architecture.classes} classes, {folder} has {len(manifest.classes)}"
            )
        if self.class_names is not None and self.class_names != manifest.class_names:
            raise ValueError(f"{self.name} was trained on other classes than {folder} has")


def model_metadata(architecture: Architecture, about: Mapping[str, Any]) -> dict[str, Any]:
    """What a LoggedModel keeps of a checkpoint, so that `open_net` can make a net of it again."""
    kept = {key: about[key] for key in ("recipe", "recipe_name", "seed", "classes", "mean_rgb")}
    return {"architecture": asdict(architecture), **kept}


def net_of_checkpoint(weights: dict[str, torch.Tensor], about: Mapping[str, Any]) -> TrainedNet:
    recipe, digest = about["recipe"], weights_sha256(weights)
    model = recipe["model"]
    architecture = Architecture(model["configuration"], len(about["classes"]), model["side"], model["width"])
    red, green, blue = about["mean_rgb"]
    return TrainedNet(
        name=f"{about['recipe_name']}-{digest[:8]}",
        architecture=architecture,
        weights=weights,
        weights_sha256=digest,
        mean_rgb=(red, green, blue),
        crop=Input(**recipe["input"]),
        recipe=recipe_label(about),
        class_names=tuple(about["classes"]),
        seed=about["seed"],
    )


def recipe_label(about: Mapping[str, Any]) -> str:
    """The recipe's name, which it has alone where nothing of it was overridden."""
    name, settings = about["recipe_name"], about["recipe"]
    as_named = name in RECIPES and asdict(RECIPES[name][1]) == settings
    return name if as_named else f"{name} (overridden)"
