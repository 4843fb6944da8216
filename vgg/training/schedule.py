"""Divides the learning rate by 10 when validation stalls (paper, section 3.1). Pure: state in, state out.

Stalled is a patience in validations, and a floor of it in updates (docs/decisions/patience.md).
"""

from dataclasses import dataclass, replace

from vgg.recipes.schema import Schedule


@dataclass(frozen=True)
class PlateauState:
    """What the schedule knows between validations."""

    best_accuracy: float = 0.0
    drops: int = 0
    stale: int = 0
    """Validations since the last improvement or drop."""
    turn: int = 0
    """Updates made by the last improvement or drop."""
    since_best: int = 0
    """Validations since the last improvement."""


def update_plateau(state: PlateauState, accuracy: float, step: int, schedule: Schedule) -> PlateauState:
    """The state after another validation, at `step` updates, with this top-1 accuracy (a fraction)."""
    if accuracy >= state.best_accuracy + schedule.min_improvement:
        return replace(state, best_accuracy=accuracy, stale=0, turn=step, since_best=0)
    stale, since_best = state.stale + 1, state.since_best + 1
    stalled = stale >= schedule.patience and step - state.turn >= schedule.patience_steps
    if stalled and state.drops < schedule.max_drops:
        return replace(state, drops=state.drops + 1, stale=0, turn=step, since_best=since_best)
    return replace(state, stale=stale, since_best=since_best)


def learning_rate(base: float, state: PlateauState, schedule: Schedule) -> float:
    """The learning rate after the drops so far."""
    return base / schedule.factor**state.drops


def should_stop_early(state: PlateauState, schedule: Schedule) -> bool:
    """Whether early stopping ends the training now."""
    return schedule.early_stop is not None and state.since_best >= schedule.early_stop
