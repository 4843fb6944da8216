"""A trained net from wherever it is kept: a run's folder, a checkpoint, MLflow, torchvision's weights."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipelines.shards import Manifest
from vgg import checkpoint
from vgg.model import CHANNELS, VGG, Architecture, load_torchvision, torchvision_names
from vgg.recipe import RECIPES, Input

# What torchvision's nets are given: pixels of [0, 1], less these, divided by those.
TORCHVISION_MEAN = (0.485, 0.456, 0.406)
TORCHVISION_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Net:
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


def open_net(reference: str) -> Net:
    """The net that a reference names. ValueError where there is none, or it is damaged.

    A run's folder (its best checkpoint is taken) or a checkpoint's, as a path or a URI; `runs:/RUN` or
    `models:/MODEL` of the MLflow server of MLFLOW_TRACKING_URI; a `.pth`, `.pt` or `.safetensors` file of
    torchvision's vgg11, vgg13, vgg16 or vgg19.
    """
    if re.match(r"(runs|models):/", reference):
        return _from_mlflow(reference)
    if re.search(r"\.(pth|pt|safetensors)$", reference):
        return _from_torchvision(Path(reference))
    state = checkpoint.find(reference)
    return _net(state.model, state.about)


def about_net(architecture: Architecture, about: Mapping[str, Any]) -> dict[str, Any]:
    """What a LoggedModel keeps of a checkpoint, so that `open_net` can make a net of it again."""
    kept = {key: about[key] for key in ("recipe", "recipe_name", "seed", "classes", "mean_rgb")}
    return {"architecture": asdict(architecture), **kept}


def _net(weights: dict[str, torch.Tensor], about: Mapping[str, Any]) -> Net:
    recipe, digest = about["recipe"], checkpoint.weights_sha256(weights)
    model = recipe["model"]
    architecture = Architecture(model["configuration"], len(about["classes"]), model["side"], model["width"])
    red, green, blue = about["mean_rgb"]
    return Net(
        name=f"{about['recipe_name']}-{digest[:8]}",
        architecture=architecture,
        weights=weights,
        weights_sha256=digest,
        mean_rgb=(red, green, blue),
        crop=Input(**recipe["input"]),
        recipe=_recipe_name(about),
        class_names=tuple(about["classes"]),
        seed=about["seed"],
    )


def _recipe_name(about: Mapping[str, Any]) -> str:
    """The recipe's name, which it has alone where nothing of it was overridden."""
    name, settings = about["recipe_name"], about["recipe"]
    as_named = name in RECIPES and asdict(RECIPES[name][1]) == settings
    return name if as_named else f"{name} (overridden)"


def _from_mlflow(reference: str) -> Net:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        if reference.startswith("runs:/") and "/" not in reference.removeprefix("runs:/"):
            outputs = mlflow.MlflowClient().get_run(reference.removeprefix("runs:/")).outputs
            if outputs is None or not outputs.model_outputs:
                raise ValueError(f"{reference} has no model: its training has not ended, or was not delivered")
            reference = f"models:/{outputs.model_outputs[-1].model_id}"
        info = mlflow.models.get_model_info(reference)
        about = (info.metadata or {}).get("vgg")
        if about is None:
            raise ValueError(f"{reference} is not a model that vgg.train logged: it lacks the metadata `vgg`")
        folder = Path(mlflow.artifacts.download_artifacts(reference))
    except MlflowException as error:
        raise ValueError(f"{reference} cannot be read from {mlflow.get_tracking_uri()}: {error}") from error
    program = torch.export.load(next(folder.rglob("*.pt2")))
    return _net({name: value.detach().contiguous() for name, value in program.state_dict.items()}, about)


def _from_torchvision(file: Path) -> Net:
    """torchvision's weights, with its input's scale and mean folded into ours."""
    if not file.is_file():
        raise ValueError(f"no weights file {file}")
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, ValueError, EOFError, UnpicklingError) as error:
        reason = str(error).partition(". ")[0]  # torch goes on to advise against its own safety
        raise ValueError(f"{file} cannot be read as a state dict: {reason}") from error
    if not isinstance(state, dict) or "classifier.6.weight" not in state:
        raise ValueError(f"{file} is not a state dict of torchvision's vgg11, vgg13, vgg16 or vgg19")
    architecture = _torchvision_architecture(file, state)
    net = VGG(architecture)
    load_torchvision(net, state)
    # (x / 255 - mean) / std = (x - 255 mean) / (255 std): padding with zeros stays padding with zeros.
    with torch.no_grad():
        first = net.get_parameter("conv1_1.weight")
        first.div_(255 * torch.tensor(TORCHVISION_STD)[:, None, None])
    weights = checkpoint.model_state(net)
    digest = checkpoint.weights_sha256(weights)
    name = f"torchvision-{architecture.configuration.lower()}"
    return Net(
        name=f"{name}-{digest[:8]}",
        architecture=architecture,
        weights=weights,
        weights_sha256=digest,
        mean_rgb=(255 * TORCHVISION_MEAN[0], 255 * TORCHVISION_MEAN[1], 255 * TORCHVISION_MEAN[2]),
        crop=Input(min_scale=256, max_scale=256, test_scale=256),
        recipe=name,
        class_names=None,
    )


def _torchvision_architecture(file: Path, state: Mapping[str, torch.Tensor]) -> Architecture:
    classes = state["classifier.6.weight"].shape[0]
    places = round((state["classifier.0.weight"].shape[1] / CHANNELS[-1]) ** 0.5)
    for configuration in ("A", "B", "D", "E"):
        architecture = Architecture(configuration, classes, 32 * places)
        if set(torchvision_names(architecture).values()) == set(state):
            return architecture
    raise ValueError(f"{file} is not a state dict of torchvision's vgg11, vgg13, vgg16 or vgg19")
