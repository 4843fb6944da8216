"""Writes model.json: the nets as torchvision and torch's FLOP counter see them, without our code.

    python tests/golden/make_model.py > tests/golden/model.json

A, B, D and E are torchvision's vgg11, vgg13, vgg16 and vgg19. A-LRN is vgg11 with a normalisation behind its
first ReLU, C is vgg16 with the last convolution of blocks 3, 4 and 5 replaced by a 1x1 one (paper, table 1).
B-5x5 is vgg13 with one 5x5 convolution in place of each pair (paper, section 4.1).
"""

import json

import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

SOURCES = {
    "A": "vgg11",
    "A-LRN": "vgg11",
    "B": "vgg13",
    "B-5x5": "vgg13",
    "C": "vgg16",
    "D": "vgg16",
    "E": "vgg19",
}


def build(configuration: str) -> torchvision.models.VGG:
    net = getattr(torchvision.models, SOURCES[configuration])()
    if configuration == "A-LRN":
        net.features.insert(2, nn.LocalResponseNorm(5))
    if configuration == "B-5x5":
        found: list[nn.Module] = []
        for first in range(0, 25, 5):  # convolution, ReLU, convolution, ReLU, pooling
            inputs, outputs = net.features[first].in_channels, net.features[first].out_channels
            found += [nn.Conv2d(inputs, outputs, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        net.features = nn.Sequential(*found)
    if configuration == "C":
        for place, channels in ((14, 256), (21, 512), (28, 512)):
            assert net.features[place].out_channels == channels
            net.features[place] = nn.Conv2d(channels, channels, 1)
    return net


def describe(net: torchvision.models.VGG) -> dict[str, object]:
    outputs: list[tuple[str, tuple[int, ...]]] = []
    kinds = {nn.Conv2d: "conv", nn.LocalResponseNorm: "lrn", nn.MaxPool2d: "pool", nn.Linear: "linear"}
    for module in [*net.features.children(), *net.classifier.children()]:
        if kind := kinds.get(type(module)):
            module.register_forward_hook(lambda _m, _in, out, kind=kind: outputs.append((kind, out.shape[1:])))
    images_BCHW = torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as forward:
        scores_BK = net(images_BCHW)
    with FlopCounterMode(display=False) as backward:
        scores_BK.sum().backward()
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "forward_flop": forward.get_total_flops(),
        "training_flop": forward.get_total_flops() + backward.get_total_flops(),
        "outputs": [f"{kind} {'x'.join(map(str, shape))}" for kind, shape in outputs],
    }


if __name__ == "__main__":
    with torch.device("meta"):
        print(json.dumps({name: describe(build(name)) for name in SOURCES}, indent=1))
