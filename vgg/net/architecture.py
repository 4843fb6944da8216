"""The six nets of the paper as data (tables 1 and 2), and the shallow twin of B: layers, parameters, FLOP."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from cli.errors import UserError

Boxes = Literal["single", "per-class"]
"""What the last layer of a box net answers: one box, or one for each class (paper, appendix A.1)."""

CHANNELS = (64, 128, 256, 512, 512)
HIDDEN = 4096

# Kernel sizes of the convolutions of each of the five blocks. B-5x5 is B with each pair of 3x3 convolutions
# replaced by one of 5x5, which the paper compares it with (section 4.1).
CONFIGURATIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "A": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "A-LRN": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "B": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "B-5x5": ((5,), (5,), (5,), (5,), (5,)),
    "C": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}


@dataclass(frozen=True)
class Architecture:
    """A column of table 1 with its number of classes, crop side and width."""

    configuration: str = "D"
    classes: int = 1000
    side: int = 224
    """Crop side in pixels."""
    width: float = 1.0
    """Factor on every number of channels and hidden units; they stay multiples of 8."""
    boxes: Boxes | None = None
    """Of a box net; None of a classifier."""

    def __post_init__(self) -> None:
        """UserError naming the flag whose value is invalid."""
        if self.configuration not in CONFIGURATIONS:
            known = ", ".join(CONFIGURATIONS)
            raise UserError(f"--model.configuration {self.configuration} is not one of {known} (table 1)")
        if self.side < 32 or self.side % 32:
            raise UserError(f"--model.side {self.side} must be a multiple of 32: five poolings halve it")
        if self.classes < 1:
            raise UserError(f"--model.classes {self.classes} must be at least 1")
        if not 0 < self.width <= 8:
            raise UserError(f"--model.width {self.width} must lie in (0, 8]")

    @property
    def outputs(self) -> int:
        """Units of the last layer: a score for each class, or four numbers for each box."""
        if self.boxes is None:
            return self.classes
        return 4 if self.boxes == "single" else 4 * self.classes

    def scaled(self, units: int) -> int:
        """Channels or hidden units at this width."""
        return max(8, round(units * self.width / 8) * 8)


@dataclass(frozen=True)
class Layer:
    """A layer applied to one crop. Convolutions and linear layers include bias and ReLU."""

    name: str
    kind: Literal["conv", "lrn", "pool", "linear"]
    inputs: int
    """Input channels or units."""
    kernel: int
    """Kernel side in pixels; 1 for layers without a kernel."""
    channels: int
    """Output channels or units, on a map of `height` by `width`."""
    height: int
    width: int

    @property
    def outputs(self) -> int:
        """Output activations."""
        return self.channels * self.height * self.width

    @property
    def weights(self) -> int:
        """Weights, without biases."""
        learns = self.kind in ("conv", "linear")
        return self.inputs * self.channels * self.kernel**2 if learns else 0

    @property
    def parameters(self) -> int:
        """Weights, and a bias for every output channel."""
        return self.weights + self.channels if self.weights else 0

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of weights and activations; biases, ReLU, LRN and pooling are not counted."""
        return self.weights * self.height * self.width


def layers(architecture: Architecture) -> list[Layer]:
    """The layers in order."""
    found = []
    side, channels = architecture.side, 3
    for block, kernels in enumerate(CONFIGURATIONS[architecture.configuration], start=1):
        out = architecture.scaled(CHANNELS[block - 1])
        for i, kernel in enumerate(kernels, start=1):
            found.append(Layer(f"conv{block}_{i}", "conv", channels, kernel, out, side, side))
            channels = out
            if architecture.configuration == "A-LRN" and block == 1:
                found.append(Layer("lrn1_1", "lrn", out, 1, out, side, side))
        side //= 2
        found.append(Layer(f"pool{block}", "pool", out, 2, out, side, side))
    inputs, hidden = channels * side**2, architecture.scaled(HIDDEN)
    for name, units in (("fc6", hidden), ("fc7", hidden), ("fc8", architecture.outputs)):
        found.append(Layer(name, "linear", inputs, 1, units, 1, 1))
        inputs = units
    return found


def blocks(convolutional: Iterable[Layer]) -> Iterator[list[Layer]]:
    """The layers up to each pooling, which is the last of its block."""
    block = []
    for layer in convolutional:
        block.append(layer)
        if layer.kind == "pool":
            yield block
            block = []


def parameter_count(architecture: Architecture) -> int:
    """Weights and biases."""
    return sum(layer.parameters for layer in layers(architecture))


def forward_flops(architecture: Architecture) -> int:
    """FLOP of one forward pass over one crop; a multiply-add counts as two."""
    return 2 * sum(layer.multiply_adds for layer in layers(architecture))


def training_flops(architecture: Architecture) -> int:
    """FLOP of one forward and backward pass over one crop, by direct convolution.

    The backward pass costs each layer's forward FLOP twice, for the gradients of its weights and of its input;
    the first layer's input, the image, needs no gradient.
    """
    return 3 * forward_flops(architecture) - 2 * layers(architecture)[0].multiply_adds
