"""The six nets of the paper as data (tables 1 and 2), and one module that builds any of them.

Shapes: B images, C channels, H and W image sides in pixels, K classes, F units of a hidden fully connected
layer, h and w sides of the class score map, s the side of the last feature map of a crop (7 at 224).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

CHANNELS = (64, 128, 256, 512, 512)
HIDDEN = 4096

# Kernel sizes of the convolutions of each of the five blocks.
CONFIGURATIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "A": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "A-LRN": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "B": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "C": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}


@dataclass(frozen=True)
class Architecture:
    """Which net: a column of table 1, its classes, its crop, and its width."""

    configuration: str = "D"
    classes: int = 1000
    side: int = 224
    """Crop side in pixels."""
    width: float = 1.0
    """Factor on every number of channels and hidden units; they stay multiples of 8."""

    def __post_init__(self) -> None:
        """ValueError naming the flag whose value makes no net."""
        if self.configuration not in CONFIGURATIONS:
            known = ", ".join(CONFIGURATIONS)
            raise ValueError(f"--model.configuration {self.configuration} is not one of {known} (table 1)")
        if self.side < 32 or self.side % 32:
            raise ValueError(f"--model.side {self.side} must be a multiple of 32: five poolings halve it")
        if self.classes < 1:
            raise ValueError(f"--model.classes {self.classes} must be at least 1")
        if not 0 < self.width <= 8:
            raise ValueError(f"--model.width {self.width} must lie in (0, 8]")

    def scaled(self, units: int) -> int:
        """Channels or hidden units at this width."""
        return max(8, round(units * self.width / 8) * 8)


@dataclass(frozen=True)
class Stage:
    """A layer as it acts on one crop. A convolution or linear layer includes its bias and ReLU."""

    name: str
    kind: Literal["conv", "lrn", "pool", "linear"]
    channels: int
    height: int
    width: int
    parameters: int
    multiply_adds: int
    """Products of a weight and an activation; biases, ReLU, LRN and pooling count nothing."""

    @property
    def outputs(self) -> int:
        """Numbers in the output."""
        return self.channels * self.height * self.width


def stages(architecture: Architecture) -> list[Stage]:
    """The layers in order."""
    found = []
    side, channels = architecture.side, 3
    for block, kernels in enumerate(CONFIGURATIONS[architecture.configuration], start=1):
        out = architecture.scaled(CHANNELS[block - 1])
        for i, kernel in enumerate(kernels, start=1):
            weights = out * channels * kernel**2
            name = f"conv{block}_{i}"
            found.append(Stage(name, "conv", out, side, side, weights + out, weights * side**2))
            channels = out
            if architecture.configuration == "A-LRN" and name == "conv1_1":
                found.append(Stage("lrn1_1", "lrn", out, side, side, 0, 0))
        side //= 2
        found.append(Stage(f"pool{block}", "pool", out, side, side, 0, 0))
    inputs = channels * side**2
    hidden = architecture.scaled(HIDDEN)
    for name, units in (("fc6", hidden), ("fc7", hidden), ("fc8", architecture.classes)):
        weights = units * inputs
        found.append(Stage(name, "linear", units, 1, 1, weights + units, weights))
        inputs = units
    return found


def parameter_count(architecture: Architecture) -> int:
    """Numbers learnt: weights and biases."""
    return sum(stage.parameters for stage in stages(architecture))


def forward_flops(architecture: Architecture) -> int:
    """FLOP of scoring one crop; a multiply-add counts as two."""
    return 2 * sum(stage.multiply_adds for stage in stages(architecture))


def training_flops(architecture: Architecture) -> int:
    """FLOP of one crop forward and backward, direct convolution.

    Backward, each layer costs its forward FLOP twice, for the gradients of its weights and of its input; the
    first layer's input, the image, needs none.
    """
    return 3 * forward_flops(architecture) - 2 * stages(architecture)[0].multiply_adds


class VGG(nn.Module):
    """A VGG net. Parameters are named after the paper's layers: conv1_1 … conv5_4, fc6, fc7, fc8."""

    def __init__(self, architecture: Architecture) -> None:
        """Parameters are left uninitialised: see `vgg.initialise`."""
        super().__init__()
        self.architecture = architecture
        self.blocks: list[list[str]] = [[] for _ in CHANNELS]
        channels = 3
        for stage in stages(architecture):
            if stage.kind == "conv":
                block, i = int(stage.name[4]), int(stage.name[6])
                self.blocks[block - 1].append(stage.name)
                kernel = CONFIGURATIONS[architecture.configuration][block - 1][i - 1]
                layer: nn.Module = nn.utils.skip_init(
                    nn.Conv2d, channels, stage.channels, kernel, padding=kernel // 2
                )
                channels = stage.channels
            elif stage.kind == "linear":
                layer = nn.utils.skip_init(nn.Linear, self._inputs(stage.name, channels), stage.channels)
            else:
                continue
            self.add_module(stage.name, layer)

    def _inputs(self, name: str, channels: int) -> int:
        if name == "fc6":
            return channels * (self.architecture.side // 32) ** 2
        return self.architecture.scaled(HIDDEN)

    @property
    def hidden(self) -> tuple[int, int]:
        """Units of fc6 and fc7, which dropout masks cover."""
        units = self.architecture.scaled(HIDDEN)
        return units, units

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """The last feature map, [B, C, H // 32, W // 32]."""
        maps_BCHW = images_BCHW
        for block in self.blocks:
            for name in block:
                maps_BCHW = F.relu(self.get_submodule(name)(maps_BCHW))
                if name == "conv1_1" and self.architecture.configuration == "A-LRN":
                    # AlexNet's k = 2, n = 5, alpha = 1e-4, beta = 0.75; torch divides alpha by n, it does not.
                    maps_BCHW = F.local_response_norm(maps_BCHW, 5, alpha=5e-4, beta=0.75, k=2.0)
            maps_BCHW = F.max_pool2d(maps_BCHW, 2)
        return maps_BCHW

    def forward(
        self, images_BCHW: torch.Tensor, masks_BF: Sequence[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Class score map [B, K, h, w]: 1×1 for a crop; on a larger image one score vector for every position
        of the crop on the last feature map (paper, section 3.2).

        `masks_BF`: dropout masks of fc6 and fc7, 0 or 1/(1 - p), for crops only.
        """
        maps_BCHW = self.features(images_BCHW)
        s = self.architecture.side // 32
        if maps_BCHW.shape[2:] != (s, s):
            assert masks_BF is None, "dropout is for training crops"
            return self._classify_everywhere(maps_BCHW, s)
        hidden_BF = maps_BCHW.flatten(1)
        for i, layer in enumerate((self.fc6, self.fc7)):
            hidden_BF = F.relu(layer(hidden_BF))
            if masks_BF is not None:
                hidden_BF = hidden_BF * masks_BF[i]
        return self.fc8(hidden_BF)[:, :, None, None]

    def _classify_everywhere(self, maps_BCHW: torch.Tensor, s: int) -> torch.Tensor:
        """The fully connected layers as s×s and 1×1 convolutions with the same weights."""
        for name, kernel in (("fc6", s), ("fc7", 1), ("fc8", 1)):
            layer = self.get_submodule(name)
            weights = layer.weight.unflatten(1, (-1, kernel, kernel))
            maps_BCHW = F.conv2d(maps_BCHW, weights, layer.bias)
            if name != "fc8":
                maps_BCHW = F.relu(maps_BCHW)
        return maps_BCHW


def _torchvision_names(net: VGG) -> Iterator[tuple[str, str]]:
    """(our layer, torchvision's) — there, every convolution is followed by a ReLU, every block by a pooling."""
    place = 0
    for block in net.blocks:
        for name in block:
            yield name, f"features.{place}"
            place += 2
        place += 1
    yield from (("fc6", "classifier.0"), ("fc7", "classifier.3"), ("fc8", "classifier.6"))


def to_torchvision(net: VGG) -> dict[str, torch.Tensor]:
    """The net's parameters under the names of torchvision's vgg11, vgg13, vgg16 or vgg19."""
    state = net.state_dict()
    return {
        f"{theirs}.{kind}": state[f"{ours}.{kind}"]
        for ours, theirs in _torchvision_names(net)
        for kind in ("weight", "bias")
    }


def load_torchvision(net: VGG, state: Mapping[str, torch.Tensor]) -> None:
    """Take the parameters of torchvision's net. ValueError naming the first that is missing or does not fit."""
    ours = {}
    for name, theirs in _torchvision_names(net):
        for kind in ("weight", "bias"):
            key = f"{theirs}.{kind}"
            wanted = net.get_parameter(f"{name}.{kind}").shape
            if key not in state or state[key].shape != wanted:
                there = f"has shape {tuple(state[key].shape)}" if key in state else "is missing"
                raise ValueError(
                    f"not a state dict of configuration {net.architecture.configuration} at side "
                    f"{net.architecture.side}: {key} {there}, wanted {tuple(wanted)} for {name}"
                )
            ours[f"{name}.{kind}"] = state[key]
    if extra := set(state) - {f"{t}.{k}" for _, t in _torchvision_names(net) for k in ("weight", "bias")}:
        raise ValueError(
            f"not a state dict of configuration {net.architecture.configuration}: it also has {min(extra)}"
        )
    net.load_state_dict(ours)
