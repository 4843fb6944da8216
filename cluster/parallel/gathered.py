"""Gradients of fully connected layers formed from gathered factors.

The gradient of a layer's weights is one product over the rows of the global batch: of the gradients of its
outputs and its inputs. Workers gather these factors and each forms the whole product, instead of summing
products of its own rows: for VGG-16 at 256 rows 10.9 million numbers in place of 123.6 million. Weights stay
replicated. The product has one shape and one order of rows on any number
of workers.

The idea for data-parallel training is that of sufficient factor broadcasting (Xie et al., UAI 2016).

Shapes: B rows of the global batch, m of a micro-batch, I inputs and O outputs of a layer.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from cluster.layout import Worker


def gather_linears(net: nn.Module, worker: Worker, shares: list[range]) -> "list[GatheredLinear]":
    """Replace the linear layers whose factors are smaller than their gradient; those that take their place.

    `shares`: the rows of each rank, consecutive. Parameters and their names stay; frozen layers are left alone.
    """
    batch, gathered = sum(map(len, shares)), []
    for name, module in list(net.named_modules()):
        if not isinstance(module, nn.Linear) or not module.weight.requires_grad:
            continue
        if factors_are_smaller(module.in_features, module.out_features, batch):
            parent, _, child = name.rpartition(".")
            layer = GatheredLinear(module, worker, shares)
            setattr(net.get_submodule(parent), child, layer)
            gathered.append(layer)
    return gathered


def factors_are_smaller(inputs: int, outputs: int, batch: int) -> bool:
    """Whether gathering a layer's factors sends fewer numbers than a ring all-reduce, on any number of workers.

    Of N workers each sends (N - 1) / N of the factors' B (I + O) numbers, or 2 (N - 1) / N of the gradient's
    I O numbers.
    """
    return batch * (inputs + outputs) < 2 * inputs * outputs


class GatheredLinear(nn.Linear):
    """A linear layer; `finish` leaves the gradients of the global batch in its weight and bias."""

    def __init__(self, linear: nn.Linear, worker: Worker, shares: list[range]) -> None:
        """Takes over the parameters of `linear`. `shares`: the rows of each rank."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self._inputs, self._output_gradients = (Factor(worker, shares) for _ in range(2))
        self._cast_weight: torch.Tensor | None = None
        self._gradient_OI = torch.empty(0)  # made once: fresh memory is slow to touch
        # Gathering is not the compiler's to trace. Said here, as it imports the compiler: two seconds, which a
        # process that only checks a layout would wait for.
        self._product = torch.compiler.disable(_Product.apply)

    def forward(self, inputs_mI: torch.Tensor) -> torch.Tensor:
        """As `nn.Linear`; where gradients are computed, the next rows of this worker."""
        if not torch.is_grad_enabled():
            return super().forward(inputs_mI)
        outputs_mO: torch.Tensor = self._product(inputs_mI, self.weight, self.bias, self)
        return outputs_mO

    def weight_in(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight, converted once for all micro-batches of a step."""
        if self.weight.dtype == dtype:
            return self.weight.detach()
        if self._cast_weight is None or self._cast_weight.dtype != dtype:
            self._cast_weight = self.weight.detach().to(dtype)
        return self._cast_weight

    def record(self, inputs_mI: torch.Tensor, output_gradients_mO: torch.Tensor) -> None:
        """The factors of the next rows; once this worker has all of its rows, they are sent."""
        self._output_gradients.record(output_gradients_mO)
        self._inputs.record(inputs_mI)

    def discard(self) -> None:
        """Forget the rows recorded since the last step."""
        self._cast_weight = None
        self._output_gradients.discard()
        self._inputs.discard()

    def finish(self) -> None:
        """Wait for the factors of all workers, and form the gradients."""
        self._cast_weight = None  # the weight is about to change
        output_gradients_BO, inputs_BI = self._output_gradients.gathered(), self._inputs.gathered()
        if self._gradient_OI.shape != self.weight.shape:
            self._gradient_OI = torch.empty_like(self.weight, requires_grad=False)
        if inputs_BI.dtype == self.weight.dtype:
            torch.mm(output_gradients_BO.t(), inputs_BI, out=self._gradient_OI)
        else:
            self._gradient_OI.copy_(output_gradients_BO.t() @ inputs_BI)
        self.weight.grad = self._gradient_OI
        self.bias.grad = output_gradients_BO.sum(0, dtype=self.bias.dtype)


class _Product(torch.autograd.Function):
    """inputs · weightᵀ + bias, whose backward pass keeps the factors of the weight's gradient."""

    @staticmethod
    def forward(
        ctx: Any, inputs_mI: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, layer: GatheredLinear
    ) -> torch.Tensor:
        device = inputs_mI.device.type
        low = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if low else inputs_mI.dtype
        inputs_mI, weight = inputs_mI.to(dtype), layer.weight_in(dtype)
        ctx.save_for_backward(inputs_mI, weight)
        ctx.layer = layer
        return F.linear(inputs_mI, weight, bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        (output_gradients_mO,) = gradients
        inputs_mI, weight = ctx.saved_tensors
        ctx.layer.record(inputs_mI, output_gradients_mO)
        return output_gradients_mO @ weight if ctx.needs_input_grad[0] else None, None, None, None


class Factor:
    """One factor of a layer's gradient: rows of this worker as they come, then those of all workers.

    Shapes: W numbers of a row; S rows of the largest share.
    """

    def __init__(self, worker: Worker, shares: list[range]) -> None:
        self._shares, self._largest = shares, max(map(len, shares))
        self._rank, self._world = worker.rank, worker.world
        self._mine_SW: torch.Tensor | None = None
        self._all: torch.Tensor | None = None
        self._work: dist.Work | None = None
        self._recorded = 0

    def record(self, rows_mW: torch.Tensor) -> None:
        """The next rows of this worker; the last of them start the exchange."""
        width = rows_mW.shape[1]
        if self._mine_SW is None or self._mine_SW.dtype != rows_mW.dtype:
            self._mine_SW = rows_mW.new_zeros(self._largest, width)
            self._all = rows_mW.new_empty(self._world * self._largest, width) if self._world > 1 else None
        end = self._recorded + len(rows_mW)
        self._mine_SW[self._recorded : end] = rows_mW
        self._recorded = end
        if self._all is not None and end == len(self._shares[self._rank]):
            # As bytes: not every backend knows every number.
            self._work = dist.all_gather_into_tensor(_bytes(self._all), _bytes(self._mine_SW), async_op=True)

    def discard(self) -> None:
        """Forget the rows; an exchange that has begun is waited for."""
        self._recorded = 0
        if self._work is not None:
            self._work.wait()
            self._work = None

    def gathered(self) -> torch.Tensor:
        """[B, W], the rows of all workers in order; waits for them."""
        assert self._mine_SW is not None
        assert self._recorded == len(self._shares[self._rank]), "a row's factors are missing"
        self.discard()
        if self._all is None:
            return self._mine_SW
        if all(len(share) == self._largest for share in self._shares):
            return self._all
        parts = self._all.split(self._largest)
        return torch.cat([part[: len(share)] for part, share in zip(parts, self._shares, strict=True)])


def _bytes(values: torch.Tensor) -> torch.Tensor:
    return values.view(torch.uint8)


def others(net: nn.Module, gathered: Iterable[GatheredLinear]) -> list[nn.Parameter]:
    """The net's parameters that a reducer sums: all but those of gathered layers and frozen ones."""
    taken = {id(parameter) for layer in gathered for parameter in layer.parameters()}
    return [p for p in net.parameters() if p.requires_grad and id(p) not in taken]
