"""A trained net as other programs take it: from pixels to class scores, in one module without branches.

Shapes: B images, C = 3, H and W sides in pixels, K classes, h and w sides of the last feature map.
"""

import torch
from torch import nn

from vgg.net.module import VGG, normalise_locally
from vgg.weights.trained_net import TrainedNet


class LocalNormalisation(nn.Module):
    """The local response normalisation of A-LRN."""

    def forward(self, maps_BCHW: torch.Tensor) -> torch.Tensor:
        """As `vgg.net.module.normalise_locally`."""
        return normalise_locally(maps_BCHW)


class Scorer(nn.Module):
    """RGB pixels from 0 to 255, float32 [B, 3, H, W], to class scores [B, K]; the mean is subtracted inside.

    As a crop: H and W are the net's side. Dense: any larger H and W, the fully connected layers applied
    as convolutions to the whole image (paper, section 3.2) and the scores averaged over its places.
    """

    mean_C11: torch.Tensor

    def __init__(self, net: TrainedNet, *, dense: bool) -> None:
        super().__init__()
        module = net.module().to(memory_format=torch.contiguous_format)
        self.register_buffer("mean_C11", torch.tensor(net.mean_rgb, dtype=torch.float32)[:, None, None])
        self.features = nn.Sequential(*_features(module))
        self.classifier = nn.Sequential(*(_as_convolutions(module) if dense else _as_linear(module)))
        self.dense = dense
        self.eval().requires_grad_(False)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Class scores, before the soft-max."""
        scores = self.classifier(self.features(images_BCHW - self.mean_C11))
        return scores.mean((2, 3)) if self.dense else scores


def _features(module: VGG) -> list[nn.Module]:
    found: list[nn.Module] = []
    for layer in module.convolutional:
        if layer.kind == "conv":
            found += [module.get_submodule(layer.name), nn.ReLU()]
        else:
            found.append(LocalNormalisation() if layer.kind == "lrn" else nn.MaxPool2d(layer.kernel))
    return found


def _as_linear(module: VGG) -> list[nn.Module]:
    return [nn.Flatten(), module.fc6, nn.ReLU(), module.fc7, nn.ReLU(), module.fc8]


def _as_convolutions(module: VGG) -> list[nn.Module]:
    places = module.architecture.side // 32
    kernels = {"fc6": places, "fc7": 1, "fc8": 1}
    found: list[nn.Module] = []
    for name, kernel in kernels.items():
        linear = module.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        channels = linear.in_features // kernel**2
        convolution = nn.Conv2d(channels, linear.out_features, kernel)
        convolution.weight.data = linear.weight.detach().reshape(-1, channels, kernel, kernel)
        convolution.bias.data = linear.bias.detach()  # type: ignore[union-attr]
        found += [convolution, nn.ReLU()]
    return found[:-1]
