"""A training's progress, speed and waits on its cluster's metrics pages, where dashboards and alerts look."""

from collections.abc import Callable

from vgg.training.events import Event, RunContext, StepsDone

IsBehind = Callable[[], bool]
"""Whether the tracking server is away while records wait for it."""


class ExportedMetrics:
    """An observer that shows the last steps' numbers to who scrapes them; of every worker by its rank."""

    def __init__(self, context: RunContext, is_behind: IsBehind | None = None) -> None:
        """`is_behind`: of a tracked training."""
        assert context.worker.export is not None
        self._export, self._plan, self._is_behind = context.worker.export, context.job.plan, is_behind
        self._run = context.job.uid[:8]

    def handle(self, event: Event) -> None:
        """Show the numbers of the steps just made."""
        match event:
            case StepsDone():
                steps = len(event.losses)
                self._show("step", event.step)
                self._show("steps_asked", self._plan.total_steps)
                self._show("loss", event.losses[-1])
                self._show("images_per_s", steps * self._plan.recipe.train.batch / event.seconds)
                self._show("data_wait_share", event.data_wait_seconds / event.seconds)
                for rank, each in enumerate(event.times):
                    for part, seconds in each.parts_s.items():
                        self._export("step_seconds", seconds, run=self._run, rank=str(rank), part=part)
        if self._is_behind is not None:
            self._show("tracking_behind", float(self._is_behind()))

    def _show(self, name: str, value: float) -> None:
        self._export(name, value, run=self._run)
