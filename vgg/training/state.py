"""What a training has been through so far."""

from dataclasses import dataclass, field
from typing import Any

from vgg.training.schedule import PlateauState


@dataclass
class TrainerState:
    """What a training has been through; kept in every checkpoint."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    """Mean loss of each step, in nats."""
    validations: list[dict[str, Any]] = field(default_factory=list)
    """Each with step, epoch, lr, loss, top1, top5 (fractions) and the images seen."""
    plateau: PlateauState = field(default_factory=PlateauState)
    resumed_from: list[int] = field(default_factory=list)
    """Step at which each further attempt took up."""

    @property
    def best(self) -> dict[str, Any] | None:
        """The first validation with the highest top-1 accuracy."""
        return max(self.validations, key=lambda v: v["top1"], default=None)
