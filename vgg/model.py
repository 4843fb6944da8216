"""The six nets of the paper as data (tables 1 and 2), and one module that builds any of them.

Shapes: B images, C channels, H and W image sides in pixels, K classes, F units of a hidden fully connected
layer, h and w sides of the class score map, s the side of the last feature map of a crop (7 at 224).
"""

from collections.abc import Mapping, Sequence
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
    inputs: int
    """Channels or units it reads."""
    kernel: int
    """Side of its window in pixels; 1 for layers that have none."""
    channels: int
    """Channels or units it puts out, on a map of `height` by `width`."""
    height: int
    width: int

    @property
    def outputs(self) -> int:
        """Numbers in the output."""
        return self.channels * self.height * self.width

    @property
    def weights(self) -> int:
        """Numbers learnt, without the biases."""
        learns = self.kind in ("conv", "linear")
        return self.inputs * self.channels * self.kernel**2 if learns else 0

    @property
    def parameters(self) -> int:
        """Numbers learnt: weights, and a bias for every channel."""
        return self.weights + self.channels if self.weights else 0

    @property
    def multiply_adds(self) -> int:
        """Products of a weight and an activation; biases, ReLU, LRN and pooling count nothing."""
        return self.weights * self.height * self.width


def stages(architecture: Architecture) -> list[Stage]:
    """The layers in order."""
    found = []
    side, channels = architecture.side, 3
    for block, kernels in enumerate(CONFIGURATIONS[architecture.configuration], start=1):
        out = architecture.scaled(CHANNELS[block - 1])
        for i, kernel in enumerate(kernels, start=1):
            found.append(Stage(f"conv{block}_{i}", "conv", channels, kernel, out, side, side))
            channels = out
            if architecture.configuration == "A-LRN" and block == 1:
                found.append(Stage("lrn1_1", "lrn", out, 1, out, side, side))
        side //= 2
        found.append(Stage(f"pool{block}", "pool", out, 2, out, side, side))
    inputs, hidden = channels * side**2, architecture.scaled(HIDDEN)
    for name, units in (("fc6", hidden), ("fc7", hidden), ("fc8", architecture.classes)):
        found.append(Stage(name, "linear", inputs, 1, units, 1, 1))
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


def normalise_locally(maps_BCHW: torch.Tensor) -> torch.Tensor:
    """AlexNet's local response normalisation over five neighbouring channels: x / (2 + 1e-4 Σ x²)^0.75.

    The paper takes "the parameters of Krizhevsky et al.", whose equation sums the squares where torch (and
    Caffe) average them: torch's alpha is therefore five times theirs. In float32, as squares of activations
    of 0-255 pixels overflow float16.
    """
    normalised_BCHW = F.local_response_norm(maps_BCHW.float(), 5, alpha=5 * 1e-4, beta=0.75, k=2.0)
    return normalised_BCHW.to(maps_BCHW.dtype)


class VGG(nn.Module):
    """A VGG net. Parameters are named after the paper's layers: conv1_1 … conv5_4, fc6, fc7, fc8."""

    fc6: nn.Linear
    fc7: nn.Linear
    fc8: nn.Linear

    def __init__(self, architecture: Architecture) -> None:
        """Parameters are left uninitialised: see `vgg.initialise`."""
        super().__init__()
        self.architecture = architecture
        self.convolutional = [stage for stage in stages(architecture) if stage.kind != "linear"]
        for stage in stages(architecture):
            if stage.kind == "conv":
                layer: nn.Module = nn.utils.skip_init(
                    nn.Conv2d, stage.inputs, stage.channels, stage.kernel, padding=stage.kernel // 2
                )
                self.add_module(stage.name, layer)
            elif stage.kind == "linear":
                self.add_module(stage.name, nn.utils.skip_init(nn.Linear, stage.inputs, stage.channels))

    @property
    def hidden(self) -> tuple[int, int]:
        """Units of fc6 and fc7, which dropout masks cover."""
        units = self.architecture.scaled(HIDDEN)
        return units, units

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """The last feature map, [B, C, H // 32, W // 32]. ValueError for an image smaller than the crop."""
        if min(images_BCHW.shape[2:]) < self.architecture.side:
            height, width = images_BCHW.shape[2:]
            raise ValueError(
                f"an image of {height}x{width} pixels is smaller than the net's crop, "
                f"{self.architecture.side}: rescale it"
            )
        maps_BCHW = images_BCHW
        for stage in self.convolutional:
            if stage.kind == "conv":
                maps_BCHW = F.relu(self.get_submodule(stage.name)(maps_BCHW), inplace=True)
            elif stage.kind == "lrn":
                maps_BCHW = normalise_locally(maps_BCHW)
            else:
                maps_BCHW = F.max_pool2d(maps_BCHW, stage.kernel)
        return maps_BCHW

    def forward(
        self, images_BCHW: torch.Tensor, masks_BF: Sequence[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Class score map [B, K, h, w]: 1×1 for a crop; on a larger image one score vector for every position
        of the crop on the last feature map (paper, section 3.2).

        `masks_BF`: dropout masks of fc6 and fc7, 0 or 1/(1 - p), for crops only.

        ValueError for an image smaller than the crop.
        """
        return self.classify(self.features(images_BCHW), masks_BF)

    def classify(self, maps_BCHW: torch.Tensor, masks_BF: Sequence[torch.Tensor] | None = None) -> torch.Tensor:
        """Class score map [B, K, h, w] of the last feature map; `masks_BF` as in `forward`."""
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
        """The fully connected layers as s×s and 1×1 convolutions with the same weights.

        As matrix products over the places of the map: a convolution would first reorder the weights of fc6,
        three quarters of the net.
        """
        patches_BhwF = maps_BCHW.unfold(2, s, 1).unfold(3, s, 1).permute(0, 2, 3, 1, 4, 5).flatten(3)
        hidden_BhwF = F.relu(self.fc7(F.relu(self.fc6(patches_BhwF))))
        return self.fc8(hidden_BhwF).permute(0, 3, 1, 2)


def torchvision_names(architecture: Architecture) -> dict[str, str]:
    """Our parameter -> torchvision's, where a ReLU follows every convolution and counts as a place.

    ValueError for A-LRN and C, which torchvision lacks.
    """
    if architecture.configuration in ("A-LRN", "C"):
        raise ValueError(f"torchvision has no configuration {architecture.configuration}, only A, B, D and E")
    layers, place = {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}, 0
    for stage in stages(architecture):
        if stage.kind == "conv":
            layers[stage.name] = f"features.{place}"
            place += 2
        elif stage.kind == "pool":
            place += 1
    kinds = ("weight", "bias")
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in layers.items() for kind in kinds}


def to_torchvision(net: VGG) -> dict[str, torch.Tensor]:
    """The net's parameters, not copied, under the names of torchvision's vgg11, vgg13, vgg16 or vgg19.

    ValueError for A-LRN and C, which torchvision lacks.
    """
    state = net.state_dict()
    return {theirs: state[ours] for ours, theirs in torchvision_names(net.architecture).items()}


def load_torchvision(net: VGG, state: Mapping[str, torch.Tensor]) -> None:
    """Take the parameters of torchvision's vgg11, vgg13, vgg16 or vgg19 (its published ones expect pixels
    divided by 255 and standardised). ValueError naming the first that is missing or does not fit.
    """
    names = torchvision_names(net.architecture)
    what = f"a state dict of configuration {net.architecture.configuration} at side {net.architecture.side}"
    for ours, theirs in names.items():
        wanted = net.get_parameter(ours).shape
        if theirs not in state or state[theirs].shape != wanted:
            there = f"has shape {tuple(state[theirs].shape)}" if theirs in state else "is missing"
            raise ValueError(f"not {what}: {theirs} {there}, wanted {tuple(wanted)} for {ours}")
    if extra := sorted(set(state) - set(names.values())):
        raise ValueError(f"not {what}: it also has {extra[0]}")
    net.load_state_dict({ours: state[theirs] for ours, theirs in names.items()})
