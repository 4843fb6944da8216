"""The weights that a training starts with: initialised, or taken from another net."""

from collections.abc import Mapping, Sequence

import torch

from cli.errors import UserError
from vgg.net.architecture import Architecture
from vgg.net.initialise import initialise
from vgg.net.module import VGG
from vgg.recipes.fine_tuning import LAST_LAYER
from vgg.recipes.schema import FROM_SHALLOWER, Model
from vgg.weights.trained_net import TrainedNet

# Paper, section 3.1. Matched by name, since the shapes agree: conv2_1 of A reads the 64 channels that block 1
# has in every configuration, and so on for conv3_1 and conv3_2.
SHALLOWER_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8")

START_FROM_FLAG = "--model.start-from"


def fresh_layers(model: Model, start: TrainedNet, class_names: Sequence[str]) -> tuple[str, ...]:
    """Layers that do not come from the net that a training starts from: the last, where its classes are others
    or it answers other boxes.

    Of a net whose classes have no names, only their number is compared.
    """
    same = start.class_names in (None, tuple(class_names)) and start.architecture.classes == len(class_names)
    same &= start.architecture.boxes == model.boxes
    return () if same or model.initialisation in FROM_SHALLOWER else (LAST_LAYER,)


def require_fit(
    architecture: Architecture, model: Model, fresh: Sequence[str], state: Mapping[str, torch.Tensor]
) -> None:
    """UserError naming the first layer that `--model.initialisation` could not take from these weights."""
    with torch.device("meta"):
        net = VGG(architecture)
    if model.initialisation in FROM_SHALLOWER:
        start_from_shallower(net, state)
    else:
        start_from_checkpoint(net, state, fresh)


def starting_weights(
    net: VGG,
    model: Model,
    seed: int,
    state: Mapping[str, torch.Tensor] | None,
    fresh: Sequence[str] = (),
) -> None:
    """Set the weights as `--model.initialisation` says; `state`: the weights of `--model.start-from`, of which
    the layers `fresh` are not taken."""
    if model.initialisation == "checkpoint":
        assert state is not None
        initialise(net, "glorot", seed, fresh)
        start_from_checkpoint(net, state, fresh)
    elif model.initialisation in FROM_SHALLOWER:
        assert state is not None
        initialise(net, "normal" if model.initialisation == "shallower" else "glorot", seed)
        start_from_shallower(net, state)
    else:
        initialise(net, model.initialisation, seed)


def answer_always(net: VGG, answer_K: torch.Tensor) -> None:
    """Let the last layer answer this, whatever the image: its weights are 0, and learn what differs."""
    with torch.no_grad():
        net.fc8.weight.zero_()
        net.fc8.bias.copy_(answer_K)


def start_from_shallower(net: VGG, state: Mapping[str, torch.Tensor]) -> None:
    """Take A's first four convolutions and its fully connected layers (paper, section 3.1).

    UserError naming the first layer whose shape differs.
    """
    _take(net, state, [f"{layer}.{kind}" for layer in SHALLOWER_LAYERS for kind in ("weight", "bias")])


def start_from_checkpoint(net: VGG, state: Mapping[str, torch.Tensor], fresh: Sequence[str] = ()) -> None:
    """Take every layer but the `fresh` ones. UserError naming the first that is missing, differs in shape, or
    is not in the net."""
    _take(net, state, [name for name, _ in net.named_parameters() if name.split(".")[0] not in fresh])
    if extra := sorted(set(state) - set(dict(net.named_parameters()))):
        raise UserError(f"--model.start-from: the checkpoint has {extra[0]}, which this net lacks")


def _take(net: VGG, state: Mapping[str, torch.Tensor], names: list[str]) -> None:
    """Copy all of them or, if one does not fit, none."""
    for name in names:
        wanted = net.get_parameter(name)
        if name not in state or state[name].shape != wanted.shape:
            there = f"has shape {tuple(state[name].shape)}" if name in state else "is missing"
            raise UserError(
                f"--model.start-from: {name} {there} in the checkpoint, this net "
                f"({net.architecture.configuration}, side {net.architecture.side}, "
                f"{net.architecture.classes} classes) wants {tuple(wanted.shape)}"
            )
    with torch.no_grad():
        for name in names:
            net.get_parameter(name).copy_(state[name])
