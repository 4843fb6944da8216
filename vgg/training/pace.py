"""At which steps a training tells how far it is, saves by the clock, and looks at what it is asked."""

import math
import time

from cluster.agreement import Agreement
from vgg.recipes.schema import Train
from vgg.training.state import next_told, workers_mean


class Pace:
    """The same steps on every worker: all go by the mean of what their clocks say."""

    def __init__(self, settings: Train, agreement: Agreement, step: int) -> None:
        """`step`: updates made before."""
        self._settings, self._agreement = settings, agreement
        self._saved_at_s = time.monotonic()
        self.tell_at, self.save_at = step + 1, math.inf

    def renew(self, step: int, seconds_per_step: float, *, saves: bool) -> None:
        """Set the next steps after one at which all workers have met. `saves`: it is being saved."""
        now_s = time.monotonic()
        if saves:
            self._saved_at_s = now_s
        seconds_per_step, unsaved_s = workers_mean(seconds_per_step, now_s - self._saved_at_s)
        self.tell_at = next_told(step, self._settings.log_steps, seconds_per_step)
        if (limit_s := self._settings.checkpoint_seconds) is not None:
            self.save_at = step + max(1, int((limit_s - unsaved_s) / max(seconds_per_step, 1e-9)))
        self._agreement.set_pace(seconds_per_step)
