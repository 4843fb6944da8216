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
    best_loss: float | None = None
    since_best_loss: int = 0
    """Validations since the loss was lowest."""


def update_plateau(
    state: PlateauState, accuracy: float, loss: float, step: int, schedule: Schedule
) -> PlateauState:
    """The state after another validation, at `step` updates: top-1 accuracy (a fraction) and loss in nats."""
    if state.best_loss is None or loss < state.best_loss:
        state = replace(state, best_loss=loss, since_best_loss=0)
    else:
        state = replace(state, since_best_loss=state.since_best_loss + 1)
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
    stale = state.since_best_loss if schedule.early_stop_on == "loss" else state.since_best
    return schedule.early_stop is not None and stale >= schedule.early_stop
