"""A trained net: its weights and what is needed to evaluate it."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from cli.errors import UserError
from pipelines.shards.manifest import Manifest
from vgg.net.architecture import Architecture
from vgg.net.module import VGG
from vgg.recipes.difference import saved_difference
from vgg.recipes.registry import RECIPES
from vgg.recipes.schema import Input
from vgg.weights.state import weights_sha256

OWN_DATA = {"paper": "ILSVRC-2012", "tiny": "Tiny ImageNet", "digits": "scikit-learn handwritten digits"}
"""First word of a recipe's name -> the data set that it is for."""


@dataclass(frozen=True)
class TrainedNet:
    """Weights, architecture, input normalisation and training scale."""

    name: str
    """Recipe, or data and configuration if the data are not the recipe's, and the first 8 digits of the
    weights' SHA-256."""
    architecture: Architecture
    weights: dict[str, torch.Tensor]
    weights_sha256: str
    mean_rgb: tuple[float, float, float]
    """Subtracted from the pixels, which range from 0 to 255."""
    training_input: Input
    """Its training scales, from which the test scales are derived."""
    recipe: str
    """Name of the recipe, with the notes "(overridden)" if settings were changed, and "(unfinished)" if its
    training has not come to its end."""
    class_names: tuple[str, ...] | None
    """In the order of the outputs; None if unknown."""
    class_ids: tuple[str, ...] | None = None
    """The data set's identifiers of the classes, WNIDs say; None if unknown."""
    seed: int | None = None
    trained_on: str = ""
    """SHA-256 of the manifest of the data set it was trained on; empty if unknown."""
    started_from: tuple[str, ...] = ()
    """Recipes of the nets whose weights it started from, the nearest first, as `recipe`; empty if unknown or
    none."""
    metadata: Mapping[str, Any] | None = None
    """Of the checkpoint; None of a net that this project did not train."""
    finished: bool = True
    """Whether its training has come to its end."""

    @property
    def training_scale(self) -> str:
        """Training scale S: 256 if fixed, 256-512 if drawn from that range."""
        smallest, largest = self.training_input.min_scale, self.training_input.max_scale
        return f"{smallest}" if smallest == largest else f"{smallest}-{largest}"

    @classmethod
    def from_checkpoint(
        cls, weights: dict[str, torch.Tensor], metadata: Mapping[str, Any], *, finished: bool = True
    ) -> "TrainedNet":
        """The net of a checkpoint's weights and metadata, or of those of a LoggedModel.

        `finished`: whether its training has come to its end.
        """
        recipe, digest = metadata["recipe"], weights_sha256(weights)
        model = recipe["model"]
        red, green, blue = metadata["mean_rgb"]
        return cls(
            name=f"{_name(metadata)}-{digest[:8]}",
            architecture=Architecture(
                model["configuration"],
                len(metadata["classes"]),
                model["side"],
                model["width"],
                model.get("boxes"),
            ),
            weights=weights,
            weights_sha256=digest,
            mean_rgb=(red, green, blue),
            training_input=Input(**recipe["input"]),
            recipe=recipe_label(metadata, finished),
            class_names=tuple(metadata["classes"]),
            class_ids=tuple(metadata["class_ids"]) if "class_ids" in metadata else None,
            seed=metadata["seed"],
            trained_on=metadata.get("data", ""),
            started_from=_started_from(metadata, digest),
            metadata=metadata,
            finished=finished,
        )

    def module(self) -> VGG:
        """The module in evaluation mode, on the CPU, channels last, without gradients."""
        net = VGG(self.architecture)
        net.load_state_dict(self.weights)
        return net.to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def check_classes(self, manifest: Manifest, folder: object) -> None:
        """UserError if the net's classes are not those of the data in `folder`, or it answers none."""
        self.require_classifier()
        self.check_same_classes(manifest, folder)

    def require_classifier(self) -> None:
        """UserError if the net answers boxes."""
        if self.architecture.boxes is not None:
            raise UserError(f"{self.name} answers boxes, not classes: python -m vgg.localise evaluate tests it")

    def check_same_classes(self, manifest: Manifest, folder: object) -> None:
        """UserError if the classes that the net was trained on are not those of the data in `folder`."""
        if len(manifest.classes) != self.architecture.classes:
            raise UserError(
                f"{self.name} has {self.architecture.classes} classes, {folder} has {len(manifest.classes)}"
            )
        if self.class_names is not None and self.class_names != manifest.class_names:
            raise UserError(f"{self.name} was trained on other classes than those of {folder}")


def model_metadata(architecture: Architecture, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a checkpoint's metadata that a LoggedModel keeps, so that `open_net` can restore the net."""
    kept = ("recipe", "recipe_name", "seed", "classes", "mean_rgb", "data", "lineage", "data_name", "class_ids")
    return {"architecture": asdict(architecture), **{key: metadata[key] for key in kept if key in metadata}}


def _name(metadata: Mapping[str, Any]) -> str:
    """The recipe, or on data that are not the recipe's the data and the configuration."""
    recipe, data = metadata["recipe_name"], metadata.get("data_name")
    if data is None or _slug(OWN_DATA.get(recipe.partition("-")[0], recipe)) == _slug(data):
        return str(recipe)
    return f"{_slug(data)}-{metadata['recipe']['model']['configuration'].lower()}"


def _slug(name: str) -> str:
    """Of a data set's name, without the kind of source: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("image folder ")).strip("-")[:40] or "data"


def recipe_label(metadata: Mapping[str, Any], finished: bool) -> str:
    """The recipe of a checkpoint's metadata, with notes of what is not as it should be."""
    name, settings = metadata["recipe_name"], metadata["recipe"]
    unchanged = name in RECIPES and not saved_difference(settings, asdict(RECIPES[name][1]))
    return f"{name}{'' if unchanged else ' (overridden)'}{'' if finished else ' (unfinished)'}"


def _started_from(metadata: Mapping[str, Any], digest: str) -> tuple[str, ...]:
    """Of the metadata `lineage`: the nets it started from, the nearest first; what is not as it should be is
    noted with each. `digest`: of the net's own weights.
    """
    lineage = metadata.get("lineage", ())
    digests = [digest, *(net["weights_sha256"] for net in lineage)]
    return tuple(
        net["recipe"]
        + (" (overridden)" if net["difference"] else "")
        + ("" if net.get("finished", True) else " (unfinished)")
        + ("" if net["data"] == metadata.get("data") else " (other data)")
        + ("" if _names_a_net(net["weights_sha256"], digests) else " (unknown weights)")
        for net in lineage
    )


def _names_a_net(digest: str, digests: list[str]) -> bool:
    """Whether it is a SHA-256 of weights, and those of no other net of the chain."""
    return bool(re.fullmatch(r"[0-9a-f]{64}", digest)) and digests.count(digest) == 1
