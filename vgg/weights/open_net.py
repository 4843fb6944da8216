"""Open a trained net: from a run's folder, a checkpoint, MLflow or a file of torchvision's weights."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cli.addresses import refuse_secret
from cli.errors import UserError
from pipelines.storage.patience import FIRST_CONTACT, UNDERWAY, patiently
from vgg.net.architecture import CHANNELS, Architecture
from vgg.net.module import VGG
from vgg.net.torchvision import load_torchvision, torchvision_names
from vgg.recipes.schema import Input
from vgg.weights.open_run import open_run, restored_net
from vgg.weights.state import model_state, weights_sha256
from vgg.weights.trained_net import TrainedNet

TORCHVISION_MEAN = (0.485, 0.456, 0.406)
TORCHVISION_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation by which torchvision's nets expect pixels in [0, 1] to be normalised."""


def open_net(reference: str, flag: str = "", *, underway: bool = False) -> TrainedNet:
    """The net at `reference`. UserError if there is none or it is damaged.

    A run's folder (its best checkpoint is used) or a checkpoint's, as a path or a URI; `runs:/RUN` or
    `models:/MODEL` of the MLflow server of MLFLOW_TRACKING_URI; a `.pth`, `.pt` or `.safetensors` file with the
    state dict of torchvision's vgg11, vgg13, vgg16 or vgg19. `flag`: by which the user named it; `underway`:
    whether a job runs already, which waits longer for a store or a server: if that stays away, it is a Failure.
    """
    described = f"{flag} {reference}".strip()
    if re.match(r"(runs|models):/", reference):
        return _from_mlflow(reference, described, underway=underway)
    if re.search(r"\.(pth|pt|safetensors)$", reference):
        return _from_torchvision(Path(reference), described)
    return open_run(reference, flag, underway=underway)


@dataclass(frozen=True)
class NetOpener:
    """`open_net` for other processes, which may lack this one's environment."""

    tracking_uri: str | None
    """Address of the MLflow server, used where MLFLOW_TRACKING_URI is not set."""

    def __call__(self, reference: str, flag: str = "", *, underway: bool = False) -> TrainedNet:
        """As `open_net`."""
        if self.tracking_uri is not None:
            os.environ.setdefault("MLFLOW_TRACKING_URI", self.tracking_uri)
        return open_net(reference, flag, underway=underway)


def _from_mlflow(reference: str, described: str, *, underway: bool) -> TrainedNet:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # else it waits four minutes for no server
    import mlflow
    from mlflow.exceptions import MlflowException

    for address in (os.environ.get("MLFLOW_TRACKING_URI", ""), mlflow.get_tracking_uri()):
        refuse_secret(address, "MLFLOW_TRACKING_URI")

    if not mlflow.is_tracking_uri_set():  # MLflow would make a database of its own in this folder
        raise UserError(f"{described} is of an MLflow server, which none is named: set MLFLOW_TRACKING_URI")
    server = mlflow.get_tracking_uri()
    patience = UNDERWAY if underway else FIRST_CONTACT

    def download() -> tuple[Mapping[str, Any], Path]:
        try:
            return _download(reference, described)
        except MlflowException as error:
            if error.get_http_status_code() >= 500:  # MLflow says so too where nothing answers
                raise ConnectionError(str(error)) from error
            raise

    try:
        metadata, folder = patiently(download, patience, f"MLflow at {server}")
    except (ConnectionError, MlflowException) as error:
        raise patience.raises(f"{described} cannot be read from {server}: {error}") from error
    file = next(folder.rglob("*.pt2"), None)
    if file is None:
        raise UserError(f"{described} has no .pt2 file: it was not logged by vgg.train, or not completely")
    try:
        program = torch.export.load(file)
    except (OSError, RuntimeError, ValueError, KeyError, AssertionError, BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{described}: {file.name} cannot be read: {reason}") from error
    weights = {name: value.detach().contiguous() for name, value in program.state_dict.items()}
    return restored_net(described, weights, metadata)


def _download(reference: str, described: str) -> tuple[Mapping[str, Any], Path]:
    """The metadata of a model that vgg.train logged, and its files."""
    import mlflow

    if reference.startswith("runs:/") and "/" not in reference.removeprefix("runs:/"):
        outputs = mlflow.MlflowClient().get_run(reference.removeprefix("runs:/")).outputs
        if outputs is None or not outputs.model_outputs:
            raise UserError(f"{described} has no model: its training has not ended, or is not delivered yet")
        reference = f"models:/{outputs.model_outputs[-1].model_id}"
    info = mlflow.models.get_model_info(reference)
    metadata = (info.metadata or {}).get("vgg")
    if metadata is None:
        raise UserError(f"{described} is not a model that vgg.train logged: it lacks the metadata `vgg`")
    return metadata, Path(mlflow.artifacts.download_artifacts(reference))


def _from_torchvision(file: Path, described: str) -> TrainedNet:
    """The net of torchvision's weights. Its input normalisation becomes ours, which only subtracts the mean:
    the division is folded into the first convolution.
    """
    state = _read_state_dict(file, described)
    architecture = _torchvision_architecture(described, state)
    net = VGG(architecture)
    load_torchvision(net, state)
    # (x / 255 - mean) / std = (x - 255 mean) / (255 std), so the zero padding stays zero.
    with torch.no_grad():
        first = net.get_parameter("conv1_1.weight")
        first.div_(255 * torch.tensor(TORCHVISION_STD)[:, None, None])
    weights = model_state(net)
    digest = weights_sha256(weights)
    name = f"torchvision-{architecture.configuration.lower()}"
    return TrainedNet(
        name=f"{name}-{digest[:8]}",
        architecture=architecture,
        weights=weights,
        weights_sha256=digest,
        mean_rgb=(255 * TORCHVISION_MEAN[0], 255 * TORCHVISION_MEAN[1], 255 * TORCHVISION_MEAN[2]),
        training_input=Input(min_scale=256, max_scale=256, test_scale=256),
        recipe=name,
        class_names=None,
    )


def _read_state_dict(file: Path, described: str) -> dict[str, torch.Tensor]:
    if not file.is_file():
        raise UserError(f"no weights file {described}")
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, ValueError, EOFError, UnpicklingError) as error:
        reason = str(error).partition(". ")[0]  # torch goes on to advise weights_only=False
        raise UserError(f"{described} cannot be read as a state dict: {reason}") from error
    tensors = isinstance(state, dict) and all(isinstance(each, torch.Tensor) for each in state.values())
    matrices = ("classifier.0.weight", "classifier.6.weight")
    if not tensors or any(name not in state or state[name].ndim != 2 for name in matrices):
        raise UserError(f"{described} is not a state dict of torchvision's vgg11, vgg13, vgg16 or vgg19")
    return state


def _torchvision_architecture(described: str, state: Mapping[str, torch.Tensor]) -> Architecture:
    classes = state["classifier.6.weight"].shape[0]
    places = state["classifier.0.weight"].shape[1] / CHANNELS[-1]  # of the last feature map
    map_side = max(1, round(places**0.5))
    for configuration in ("A", "B", "D", "E"):
        architecture = Architecture(configuration, classes, 32 * map_side)
        if set(torchvision_names(architecture).values()) == set(state):
            return architecture
    raise UserError(f"{described} is not a state dict of torchvision's vgg11, vgg13, vgg16 or vgg19")
