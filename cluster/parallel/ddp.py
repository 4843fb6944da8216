"""Gradients summed by PyTorch's DistributedDataParallel, while others are still computed."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cluster.layout import Worker


def data_parallel(net: nn.Module, worker: Worker, example: torch.Tensor) -> nn.Module:
    """The net with its gradients summed over workers at each backward pass; `example` is an input of one row.

    DDP divides by the number of workers, which is the exact mean over the batch only when they share it
    evenly; a plain sum lets the loss carry the exact weights instead.
    """
    if worker.world == 1:
        return net
    devices = [worker.device] if worker.device.type == "cuda" else None
    ddp = DistributedDataParallel(net, device_ids=devices, gradient_as_bucket_view=True)
    ddp.register_comm_hook(None, _sum_gradients)
    # DDP regroups its buckets after the first backward pass, which changes the order in which a ring adds
    # gradients up. One pass ahead of all steps gives a resumed training the buckets of an undisturbed one.
    ddp(example).sum().backward()
    ddp.zero_grad()
    return ddp


def _sum_gradients(_state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])
