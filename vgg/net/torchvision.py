"""Parameters under the names of torchvision's vgg11, vgg13, vgg16 and vgg19."""

from collections.abc import Mapping

import torch

from cli.errors import UserError
from vgg.net.architecture import Architecture, layers
from vgg.net.module import VGG


def torchvision_names(architecture: Architecture) -> dict[str, str]:
    """Our parameter -> torchvision's, where a ReLU follows every convolution and counts as a place.

    UserError for A-LRN, B-5x5 and C, which torchvision lacks.
    """
    if architecture.configuration in ("A-LRN", "B-5x5", "C"):
        raise UserError(f"torchvision has no configuration {architecture.configuration}, only A, B, D and E")
    places, place = {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}, 0
    for layer in layers(architecture):
        if layer.kind == "conv":
            places[layer.name] = f"features.{place}"
            place += 2
        elif layer.kind == "pool":
            place += 1
    kinds = ("weight", "bias")
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in places.items() for kind in kinds}


def to_torchvision(net: VGG) -> dict[str, torch.Tensor]:
    """The net's parameters, not copied, under the names of torchvision's vgg11, vgg13, vgg16 or vgg19.

    UserError for A-LRN, B-5x5 and C, which torchvision lacks.
    """
    state = net.state_dict()
    return {theirs: state[ours] for ours, theirs in torchvision_names(net.architecture).items()}


def load_torchvision(net: VGG, state: Mapping[str, torch.Tensor]) -> None:
    """Take the parameters of torchvision's vgg11, vgg13, vgg16 or vgg19 (its published ones expect pixels
    divided by 255 and standardised). UserError naming the first that is missing or does not fit.
    """
    names = torchvision_names(net.architecture)
    what = f"a state dict of configuration {net.architecture.configuration} at side {net.architecture.side}"
    for ours, theirs in names.items():
        wanted = net.get_parameter(ours).shape
        if theirs not in state or state[theirs].shape != wanted:
            there = f"has shape {tuple(state[theirs].shape)}" if theirs in state else "is missing"
            raise UserError(f"not {what}: {theirs} {there}, wanted {tuple(wanted)} for {ours}")
    if extra := sorted(set(state) - set(names.values())):
        raise UserError(f"not {what}: it also has {extra[0]}")
    net.load_state_dict({ours: state[theirs] for ours, theirs in names.items()})
