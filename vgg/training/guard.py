"""Leaves out an update whose loss or gradient is no number, on the device: the host does not wait.

Shapes: L leaves of the batch.
"""

import math

import torch

from vgg.net.precision import MixedPrecision


class UpdateGuard:
    """Of one optimizer. A loss that is no number makes the gradients of the batch NaN: so all workers know.

    With a loss scaler it is the scaler that leaves updates out, also those whose gradient its own factor made
    overflow: only the loss tells them apart.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, precision: MixedPrecision) -> None:
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        device = self._parameters[0].device
        self._found, self._one = torch.zeros((), device=device), torch.ones((), device=device)
        self._has_scaler = precision.scaler.is_enabled()
        self.leaves_out = False
        """Whether the next update is left out whatever its numbers are."""
        if not self._has_scaler:
            optimizer.found_inf = self._found  # type: ignore[attr-defined]  # fused optimizers look at it

    def loss(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss, or NaN where it is no number or the update is to be left out; with its gradient."""
        return loss * (math.nan if self.leaves_out else loss.detach() * 0 + 1)

    def checked(self, losses_L: torch.Tensor) -> torch.Tensor:
        """Called between the backward pass and the optimizer's step; the losses, NaN of an update that is left
        out."""
        if self._has_scaler:
            return losses_L
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        self._found.zero_()
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self._found, self._one)
        return losses_L.masked_fill(self._found.bool(), math.nan)
