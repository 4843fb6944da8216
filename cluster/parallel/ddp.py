"""Gradients summed by PyTorch's DistributedDataParallel while others are still being computed.

Shapes: L leaves of the batch, here one.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cluster.layout import Worker
from cluster.parallel.gathered import GatheredLinear, gather_linears, others
from cluster.partition import micro_batches, rank_slice
from cluster.progress import Part


class DDPReducer:
    """A worker's even share of the batch; gradients are summed over workers in the last backward pass."""

    def __init__(
        self,
        net: nn.Module,
        worker: Worker,
        batch: int,
        micro_batch: int | None,
        example: torch.Tensor,
        *,
        gather: bool = False,
    ) -> None:
        """`example`: an input of one row. `micro_batch`: rows of a pass at most; None: all of this worker's.
        `gather`: see `cluster.parallel.gathered`.
        """
        shares = [rank_slice(rank, worker.world, batch) for rank in range(worker.world)]
        self.batch, self.rows, self._progress = batch, shares[worker.rank], worker.progress
        self._gathered = gather_linears(net, worker, shares) if gather else []
        alone = worker.world == 1 or not others(net, self._gathered)
        self.module = net if alone else _distributed(net, worker, example, self._gathered)
        self._micro_batches = micro_batches(range(len(self.rows)), micro_batch)

    def backward(
        self, loss_of_rows: Callable[[slice], torch.Tensor], scaler: torch.amp.GradScaler
    ) -> torch.Tensor:
        """See `GradientReducer.backward`."""
        losses = []
        for rows in self._micro_batches:
            with nullcontext() if rows == self._micro_batches[-1] else self._local_only():
                loss = loss_of_rows(rows)
                scaler.scale(loss).backward()
            losses.append(loss.detach())
        with self._progress.at(Part.EXCHANGE):
            for layer in self._gathered:
                layer.finish()
        return reduce(torch.add, losses)[None]

    def _local_only(self) -> AbstractContextManager[None]:
        """Within it gradients are accumulated on this worker alone."""
        if isinstance(self.module, DistributedDataParallel):
            return self.module.no_sync()
        return nullcontext()


def _distributed(
    net: nn.Module, worker: Worker, example: torch.Tensor, gathered: Sequence[GatheredLinear]
) -> DistributedDataParallel:
    """The net with its gradients summed over workers at each backward pass, but for those of gathered layers.

    DDP divides by the number of workers, which is the exact mean over the batch only when they share it
    evenly; a plain sum lets the loss carry the exact weights instead.
    """
    summed = {id(parameter) for parameter in others(net, gathered)}
    left_out = [name for name, parameter in net.named_parameters() if id(parameter) not in summed]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(net, left_out)
    devices = [worker.device] if worker.device.type == "cuda" else None
    ddp = DistributedDataParallel(net, device_ids=devices, gradient_as_bucket_view=True)
    ddp.register_comm_hook(None, _sum_gradients)
    # DDP regroups its buckets after the first backward pass, which changes the order in which a ring adds
    # gradients up. One pass ahead of all steps gives a resumed training the buckets of an undisturbed one.
    ddp(example).sum().backward()
    ddp.zero_grad()
    for layer in gathered:
        layer.discard()
    return ddp


def _sum_gradients(_state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])
