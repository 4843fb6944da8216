"""A training's progress on a terminal: a bar below the lines that are printed meanwhile."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from vgg.tracking.run_log import Progress as TrainingProgress


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Callable[[TrainingProgress], None] | None]:
    """Shows what it is told, as long as the block runs; None where standard error is no terminal."""
    if console is None:
        console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}")
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None, state="")

        def show(progress: TrainingProgress) -> None:
            bar.update(
                task,
                description=f"step {progress.step:,}/{progress.total:,}",
                total=progress.total,
                completed=progress.step,
                state=f"loss {progress.loss:.4f}, {progress.images_per_s:,.0f} images/s, "
                f"{timedelta(seconds=round(progress.left_seconds))} left",
            )

        yield show
