"""What workers exchange besides gradients: sums of counts, and the first problem that any of them has."""

import torch
import torch.distributed as dist


def sum_over_workers(values: torch.Tensor) -> torch.Tensor:
    """The element-wise sum over workers, in place; the tensor lies on the worker's device."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def first_problem(problem: str | None) -> str | None:
    """What the lowest rank with a problem says, on every worker: they stop together or go on together."""
    if not dist.is_initialized():
        return problem
    problems: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    return next((p for p in problems if p is not None), None)
