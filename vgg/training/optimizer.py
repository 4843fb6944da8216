"""The optimizer."""

import torch
from torch import nn

from vgg.recipes.schema import Optim


def make_optimizer(net: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """SGD or Adam over every parameter. Biases decay too: the paper's L2 penalty names no exception."""
    if optim.name == "adam":
        betas = (optim.momentum, 0.999)
        return torch.optim.Adam(
            net.parameters(), optim.lr, betas=betas, weight_decay=optim.weight_decay, fused=True
        )
    sgd = torch.optim.SGD(
        net.parameters(), optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay, fused=True
    )
    if optim.momentum:
        # Otherwise the first step makes them, uninitialised, and leaves them so where the gradients overflowed.
        for parameter in net.parameters():
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
    return sgd
