"""The update rule."""

import torch
from torch import nn

from vgg.recipes.schema import Optim


def make_optimizer(net: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """The update rule over every parameter; biases decay too, as the paper's penalty names no exception."""
    if optim.name == "sgd":
        return torch.optim.SGD(
            net.parameters(),
            optim.lr,
            momentum=optim.momentum,
            weight_decay=optim.weight_decay,
            fused=True,
        )
    return torch.optim.Adam(
        net.parameters(),
        optim.lr,
        betas=(optim.momentum, 0.999),
        weight_decay=optim.weight_decay,
        fused=True,
    )
