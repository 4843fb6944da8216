"""What becomes of a training whose loss or gradient is no number (`--train.bad-numbers`).

    stop: it ends
    skip: the update is not made (see `vgg.training.guard`)
    roll-back: it goes on from a checkpoint, and the second pass leaves out that update and the one before it
        where the next one breaks too: one more on either side
    after too many in a row it ends

All workers know the same losses and decide alike. Which updates are left out depends on the numbers alone, not
on when somebody looks, what is saved or how many workers there are.
"""

import math
from collections.abc import Callable, Collection, Sequence

import torch

from pipelines.shards.reader import Shards
from vgg.net.precision import MixedPrecision
from vgg.training.accounting import Window
from vgg.training.divergence import divergence
from vgg.training.events import Event, LeftOut
from vgg.training.guard import UpdateGuard
from vgg.training.plan import TrainingPlan
from vgg.training.saving import Saver
from vgg.training.state import TrainerState
from vgg.weights.checkpoint import Checkpoint

MOST_IN_A_ROW = 6
"""Updates left out: where more are to be, it is not the images."""
HELP = "lower --optim.lr, choose another --model.initialisation"


class BadNumbers:
    """Looks at each window of updates."""

    def __init__(
        self,
        plan: TrainingPlan,
        train_set: Shards,
        saver: Saver,
        optimizer: torch.optim.Optimizer,
        precision: MixedPrecision,
        *,
        tell: Callable[[Event], None],
    ) -> None:
        """`tell`: the observers."""
        self._plan, self._train_set, self._saver, self._tell = plan, train_set, saver, tell
        self._wanted = plan.recipe.train.bad_numbers
        self._has_scaler = precision.scaler.is_enabled()
        self._guard = None if self._wanted == "stop" else UpdateGuard(optimizer, precision)

    def guard(self, state: TrainerState) -> UpdateGuard | None:
        """Of the next update."""
        if self._guard is not None:
            self._guard.leaves_out = state.step + 1 in state.left_out
        return self._guard

    def answer(self, window: Window, state: TrainerState) -> str | Checkpoint | None:
        """To the updates up to `state.step`: the problem that ends the training, the checkpoint to go on from,
        or None, to just go on. What is left out is entered in `state`. Every worker calls it at the same time.
        """
        losses = dict(enumerate(window.losses, state.step - len(window.losses) + 1))
        bad = [step for step, loss in losses.items() if not math.isfinite(loss) and step not in state.left_out]
        if self._wanted == "stop":
            if bad:
                return self._stop(f"the loss became {losses[bad[0]]}", bad[0])
            if not self._has_scaler and not math.isfinite(window.gradient_norm):
                return self._stop(f"the gradient's norm became {window.gradient_norm}", state.step)
        elif bad:
            return self._skip(bad, state) if self._wanted == "skip" else self._roll_back(bad[0], state)
        return None

    def _stop(self, what: str, step: int) -> str:
        said = divergence(what, step, self._plan, self._train_set)
        return f"{said}: {HELP}, or see --train.bad-numbers; {self._saver.kept()}"

    def _skip(self, bad: Sequence[int], state: TrainerState) -> str | None:
        state.left_out = (*state.left_out, *bad)
        for step in bad:
            if step - first_of_run(state.left_out, step) >= MOST_IN_A_ROW:
                return self._give_up(step)
            self._tell(LeftOut(step, f"{self._said(step)}: the update is left out"))
        return None

    def _roll_back(self, step: int, state: TrainerState) -> str | Checkpoint:
        first = first_of_run(state.left_out, step) - 1
        left_out = {*state.left_out, first, step}
        if step - first_of_run(left_out, step) >= MOST_IN_A_ROW:
            return self._give_up(step)
        found = self._saver.go_back(first)
        if isinstance(found, str):
            return f"{self._said(step)}, and there is no going back: {found}"
        state.left_out = tuple(sorted(left_out))
        again = f"going on from step {found.step:,}, without updates {first:,} to {step:,}"
        self._tell(LeftOut(step, f"{self._said(step)}: {again}"))
        return found

    def _give_up(self, step: int) -> str:
        return (
            f"{self._said(step)}: {HELP}. More than {MOST_IN_A_ROW} updates in a row are not left out; "
            f"{self._saver.kept()}"
        )

    def _said(self, step: int) -> str:
        return divergence("the loss or its gradient is no number", step, self._plan, self._train_set)


def first_of_run(steps: Collection[int], last: int) -> int:
    """The first of the consecutive steps that end at `last`, which may be missing itself."""
    first = last
    while first - 1 in steps:
        first -= 1
    return first
