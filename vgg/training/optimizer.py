"""The optimizer."""

import torch
from torch import nn

from vgg.recipes.schema import Optim


def make_optimizer(net: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """SGD or Adam over every parameter. Biases decay too: the paper's L2 penalty names no exception."""
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
