"""Copies of parameters and optimizer buffers on the CPU, and their digest."""

import hashlib

import torch
from torch import nn


def weights_sha256(parameters: dict[str, torch.Tensor]) -> str:
    """SHA-256 over the values of all parameters, float32 little-endian, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(parameters[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def model_state(net: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the parameters on the CPU, which later updates do not change."""
    return {name: _cpu_copy(value) for name, value in net.state_dict().items()}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """A copy of the optimizer's buffers on the CPU: `<parameter index>.<buffer>` -> values."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": _cpu_copy(value) for i, buffers in state.items() for key, value in buffers.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, torch.Tensor]) -> None:
    """Restore the buffers, each on its parameter's device and in its memory format."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, value in saved.items():
        i, key = name.split(".", 1)
        parameter = parameters[int(i)]
        like = parameter if value.shape == parameter.shape else value
        buffer = torch.empty_like(like, device=parameter.device, requires_grad=False)
        optimizer.state[parameter][key] = buffer.copy_(value)


def _cpu_copy(value: torch.Tensor) -> torch.Tensor:
    return value.detach().to("cpu", copy=True).contiguous()
