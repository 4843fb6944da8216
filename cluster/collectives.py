"""Collective operations of the workers besides summing gradients: sums of counts, agreement on an error."""

from typing import TypeVar

import torch
import torch.distributed as dist

Value = TypeVar("Value")


def sum_over_workers(values: torch.Tensor) -> torch.Tensor:
    """The element-wise sum over all workers, in place; the tensor lies on the CPU or the worker's device."""
    if not dist.is_initialized():
        return values
    if values.device.type == "cpu" and dist.get_backend() == "nccl":  # NCCL knows a GPU's memory alone
        return values.copy_(sum_over_workers(values.cuda()))
    dist.all_reduce(values)
    return values


def broadcast(value: Value, device: torch.device) -> Value:
    """The value of rank 0 on every worker; tensors in it must be on the CPU. `device`: of this worker."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, device=device)
    return values[0]


def everyones(value: Value) -> list[Value]:
    """The values of all workers, by rank."""
    if not dist.is_initialized():
        return [value]
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def first_problem(problem: Value | None) -> Value | None:
    """What is wrong on the lowest rank that has a problem, on every worker: all stop or all continue."""
    return next((p for p in everyones(problem) if p is not None), None)
