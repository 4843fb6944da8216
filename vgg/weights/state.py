"""Copies of parameters and optimizer buffers on the CPU, and their digest."""

import hashlib
from collections.abc import Mapping

import torch
from torch import nn


def weights_sha256(parameters: dict[str, torch.Tensor]) -> str:
    """SHA-256 over the values of all parameters, float32 little-endian, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(parameters[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Copies:
    """Contiguous copies of tensors on the CPU, in memory that the next ones of the same name overwrite: fresh
    memory takes longer than the copying. Tensors on a GPU are copied to pinned memory, all in one go."""

    def __init__(self) -> None:
        self._kept: dict[str, torch.Tensor] = {}

    def of(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A copy of each, complete when this returns."""
        copies = {name: self._copy(name, value.detach()) for name, value in tensors.items()}
        for device in {value.device for value in tensors.values() if value.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
        return copies

    def _copy(self, name: str, value: torch.Tensor) -> torch.Tensor:
        kept = self._kept.get(name)
        if kept is None or (kept.shape, kept.dtype) != (value.shape, value.dtype):
            kept = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            self._kept[name] = kept
        return kept.copy_(value, non_blocking=True)


def model_state(net: nn.Module, copies: Copies | None = None) -> dict[str, torch.Tensor]:
    """A copy of the parameters on the CPU, which later updates do not change; the next into `copies` does."""
    return (copies or Copies()).of(net.state_dict())


def optimizer_state(optimizer: torch.optim.Optimizer, copies: Copies | None = None) -> dict[str, torch.Tensor]:
    """A copy of the optimizer's buffers, likewise: `<parameter index>.<buffer>` -> values."""
    state = optimizer.state_dict()["state"]
    buffers = {f"{i}.{key}": value for i, each in state.items() for key, value in each.items()}
    return (copies or Copies()).of(buffers)


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, torch.Tensor]) -> None:
    """Restore the buffers, each on its parameter's device and in its memory format."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, value in saved.items():
        i, key = name.split(".", 1)
        parameter = parameters[int(i)]
        like = parameter if value.shape == parameter.shape else value
        buffer = torch.empty_like(like, device=parameter.device, requires_grad=False)
        optimizer.state[parameter][key] = buffer.copy_(value)
