"""Collective operations of the workers besides summing gradients: sums of counts, agreement on an error."""

import torch
import torch.distributed as dist


def sum_over_workers(values: torch.Tensor) -> torch.Tensor:
    """The element-wise sum over all workers, in place; the tensor lies on the worker's device."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def first_problem(problem: str | None) -> str | None:
    """The error message of the lowest rank that has one, on every worker, so that all stop or all continue."""
    if not dist.is_initialized():
        return problem
    problems: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    return next((p for p in problems if p is not None), None)
