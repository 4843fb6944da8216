"""What of a study is done and what the rest would cost, told before anything is started."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from cli.console import console
from cli.errors import UserError
from pipelines.shards.manifest import Manifest
from pipelines.storage.folder import Folder
from vgg.studies.cost import Rates, duration, measured_rates, remaining_seconds, step_flop, step_seconds
from vgg.studies.graph import Node
from vgg.studies.record import StepResult, find_done
from vgg.studies.steps import StudyJob, identity_of


@dataclass(frozen=True)
class PlannedStudy:
    """A study's nodes, those that are done, and what each other is expected to take."""

    nodes: Sequence[Node]
    done: dict[str, StepResult]
    flop: dict[str, float]
    seconds: dict[str, float]
    """Wall time of each node that is not done."""
    rates: Rates

    def left(self, at_once: int) -> float:
        """Seconds to the end, with so many steps at a time."""
        return remaining_seconds(self.nodes, self.seconds, at_once)


def planned(job: StudyJob, nodes: Sequence[Node], manifest: Manifest) -> PlannedStudy:
    """UserError where a training does not fit the data."""
    out, done = Folder(job.out, "--out"), dict[str, StepResult]()
    for node in nodes:
        if not set(node.needs) <= done.keys():
            continue  # what it would start from is not known yet
        identity = identity_of(job, node, manifest, [done[name] for name in node.needs])
        if found := find_done(out, node, identity, any_code=job.any_code):
            done[node.name] = found
    flop = {node.name: step_flop(node, job.trainings, manifest) for node in nodes}
    rates = measured_rates(done.values(), nodes, manifest)
    seconds = {
        node.name: step_seconds(node, flop[node.name], rates, job.layout.workers)
        for node in nodes
        if node.name not in done
    }
    return PlannedStudy(nodes, done, flop, seconds, rates)


def check_trainings(job: StudyJob, manifest: Manifest) -> None:
    """UserError where a recipe has other classes than the data."""
    for step in job.trainings.values():
        try:
            step.recipe.architecture(len(manifest.classes))
        except UserError as error:
            raise UserError(f"--data {job.data} does not fit {step.name}: {error}") from error


def print_graph(study: PlannedStudy, at_once: int) -> None:
    """Every step with what it needs, its FLOP and its time, and the whole."""
    table = Table("step", "needs", "FLOP", "time")
    for node in study.nodes:
        name = node.name
        time = "done" if name in study.done else duration(study.seconds[name])
        flop = f"{study.flop[name]:.1e}" if study.flop[name] else ""
        table.add_row(name, ", ".join(node.needs), flop, time)
    out = console()
    out.print(table)
    hours = sum(study.seconds.values()) / 3600
    out.print(
        f"{len(study.nodes)} steps, {len(study.done)} done; {hours:.2f} worker-hours left, about "
        f"{duration(study.left(at_once))} with {at_once} at once\n"
        f"rates: {study.rates.training / 1e9:.1f} GFLOP/s in training, {study.rates.evaluation / 1e9:.1f} in "
        f"tests, from {study.rates.source}"
    )
