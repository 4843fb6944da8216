"""The optimizer."""

from typing import Any

import torch
from torch import nn

from vgg.recipes.fine_tuning import LAST_LAYER
from vgg.recipes.schema import Optim


def make_optimizer(net: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """SGD or Adam over every parameter that is not frozen. Biases decay too: the paper's L2 penalty names no
    exception. Each group has an `lr_factor`, by which its learning rate is multiplied.
    """
    groups = _groups(net, optim.body_lr_factor)
    if optim.name == "adam":
        betas = (optim.momentum, 0.999)
        return torch.optim.Adam(groups, optim.lr, betas=betas, weight_decay=optim.weight_decay, fused=True)
    sgd = torch.optim.SGD(
        groups, optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay, fused=True
    )
    if optim.momentum:
        # Otherwise the first step makes them, uninitialised, and leaves them so where the gradients overflowed.
        for group in groups:
            for parameter in group["params"]:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
    return sgd


def _groups(net: nn.Module, body_lr_factor: float) -> list[dict[str, Any]]:
    """All in one, in the net's order, or the last layer apart from the body."""
    trained = {name: value for name, value in net.named_parameters() if value.requires_grad}
    if body_lr_factor == 1:
        return [{"params": list(trained.values()), "lr_factor": 1.0}]
    last = [value for name, value in trained.items() if name.startswith(f"{LAST_LAYER}.")]
    body = [value for name, value in trained.items() if not name.startswith(f"{LAST_LAYER}.")]
    groups = [{"params": body, "lr_factor": body_lr_factor}, {"params": last, "lr_factor": 1.0}]
    return [group for group in groups if group["params"]]
