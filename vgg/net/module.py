"""One module that builds any of the paper's nets.

Shapes: B images, C channels, H and W image sides in pixels, K classes, F units of a hidden fully connected
layer, h and w sides of the class score map, s the side of the last feature map of a crop (7 at 224).
"""

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from cli.errors import UserError
from vgg.net.architecture import HIDDEN, Architecture, Layer, blocks, layers


def normalise_locally(maps_BCHW: torch.Tensor) -> torch.Tensor:
    """AlexNet's local response normalisation over five adjacent channels: x / (2 + 1e-4 Σ x²)^0.75.

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
        """Parameters stay uninitialised: see `vgg.net.initialise`."""
        super().__init__()
        self.architecture = architecture
        self.recomputes = False
        """Whether the backward pass computes anew what lies within a block (see `Layout.recompute`)."""
        self.convolutional = [layer for layer in layers(architecture) if layer.kind != "linear"]
        for layer in layers(architecture):
            if layer.kind == "conv":
                convolution = nn.utils.skip_init(
                    nn.Conv2d, layer.inputs, layer.channels, layer.kernel, padding=layer.kernel // 2
                )
                self.add_module(layer.name, convolution)
            elif layer.kind == "linear":
                self.add_module(layer.name, nn.utils.skip_init(nn.Linear, layer.inputs, layer.channels))

    @property
    def hidden(self) -> tuple[int, int]:
        """Units of fc6 and fc7, which dropout masks cover."""
        units = self.architecture.scaled(HIDDEN)
        return units, units

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """The last feature map, [B, C, H // 32, W // 32]. UserError for an image smaller than the crop."""
        if min(images_BCHW.shape[2:]) < self.architecture.side:
            height, width = images_BCHW.shape[2:]
            raise UserError(
                f"an image of {height}x{width} pixels is smaller than the net's crop, "
                f"{self.architecture.side}: rescale it"
            )
        maps_BCHW = images_BCHW
        for block in blocks(self.convolutional):
            if self.recomputes and torch.is_grad_enabled():
                maps_BCHW = checkpoint(
                    self._block, block, maps_BCHW, use_reentrant=False, preserve_rng_state=False
                )
            else:
                maps_BCHW = self._block(block, maps_BCHW)
        return maps_BCHW

    def _block(self, block: Sequence[Layer], maps_BCHW: torch.Tensor) -> torch.Tensor:
        for layer in block:
            maps_BCHW = self._output(layer, maps_BCHW)
        return maps_BCHW

    def activations(self, images_BCHW: torch.Tensor, names: Collection[str]) -> dict[str, torch.Tensor]:
        """Outputs of these layers, in the net's order, [B, C, H, W] each: of convolutions, fc6 and fc7 after
        the ReLU, of fully connected layers one vector for every position of the crop.

        Nothing beyond the last of them is computed. ValueError for a layer that the net lacks, or an image that
        is too small for one.
        """
        known = [layer.name for layer in layers(self.architecture)]
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"layer {unknown[0]!r} is not one of {', '.join(known)}")
        found: dict[str, torch.Tensor] = {}
        maps_BCHW = images_BCHW
        for layer in layers(self.architecture):
            if len(found) == len(set(names)):
                break
            least = {"pool": layer.kernel, "linear": self.architecture.side // 32 if layer.name == "fc6" else 1}
            if min(maps_BCHW.shape[2:]) < least.get(layer.kind, 1):
                height, width = images_BCHW.shape[2:]
                raise ValueError(f"an image of {height}x{width} pixels is too small for layer {layer.name}")
            maps_BCHW = self._output(layer, maps_BCHW)
            if layer.name in names:
                found[layer.name] = maps_BCHW
        return found

    def _output(self, layer: Layer, maps_BCHW: torch.Tensor) -> torch.Tensor:
        """What a layer makes of its input, with its ReLU."""
        if layer.kind == "conv":
            return F.relu(self.get_submodule(layer.name)(maps_BCHW), inplace=True)
        if layer.kind == "lrn":
            return normalise_locally(maps_BCHW)
        if layer.kind == "pool":
            return F.max_pool2d(maps_BCHW, layer.kernel)
        units_BhwF = self._patches(maps_BCHW) if layer.name == "fc6" else maps_BCHW.permute(0, 2, 3, 1)
        units_BFhw = self.get_submodule(layer.name)(units_BhwF).permute(0, 3, 1, 2)
        return units_BFhw if layer.name == "fc8" else F.relu(units_BFhw)

    def forward(
        self, images_BCHW: torch.Tensor, masks_BF: Sequence[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Class score map [B, K, h, w]: 1×1 for a crop; for a larger image one score vector for every position
        of the crop on the last feature map (paper, section 3.2).

        `masks_BF`: dropout masks of fc6 and fc7, 0 or 1/(1 - p), for crops only.

        UserError for an image smaller than the crop.
        """
        return self.classify(self.features(images_BCHW), masks_BF)

    def classify(self, maps_BCHW: torch.Tensor, masks_BF: Sequence[torch.Tensor] | None = None) -> torch.Tensor:
        """Class score map [B, K, h, w] of the last feature map; `masks_BF` as in `forward`."""
        s = self.architecture.side // 32
        if maps_BCHW.shape[2:] != (s, s):
            assert masks_BF is None, "dropout is for training crops"
            return self._classify_everywhere(maps_BCHW)
        hidden_BF = maps_BCHW.flatten(1)
        for i, layer in enumerate((self.fc6, self.fc7)):
            hidden_BF = F.relu(layer(hidden_BF))
            if masks_BF is not None:
                hidden_BF = hidden_BF * masks_BF[i]
        return self.fc8(hidden_BF)[:, :, None, None]

    def _classify_everywhere(self, maps_BCHW: torch.Tensor) -> torch.Tensor:
        """The fully connected layers as s×s and 1×1 convolutions with the same weights.

        Computed as matrix products over the positions of the map: a convolution would first reorder the weights
        of fc6, three quarters of the net.
        """
        hidden_BhwF = F.relu(self.fc7(F.relu(self.fc6(self._patches(maps_BCHW)))))
        return self.fc8(hidden_BhwF).permute(0, 3, 1, 2)

    def _patches(self, maps_BCHW: torch.Tensor) -> torch.Tensor:
        """The input of fc6 at every position of the crop on the last feature map, [B, h, w, F]."""
        s = self.architecture.side // 32
        return maps_BCHW.unfold(2, s, 1).unfold(3, s, 1).permute(0, 2, 3, 1, 4, 5).flatten(3)
