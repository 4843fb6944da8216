"""Tracked transfer tests laid out as the paper's tables 11 and 12, and as a table for each other data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vgg.reporting.comparison import ComparisonRow, ComparisonTable
from vgg.reporting.paper_conditions import EARLIER_VERSION
from vgg.reporting.paper_transfer import TABLES, TransferTable, cell
from vgg.reporting.transfer_facts import TransferFacts
from vgg.reporting.transfer_run import KIND, MEASURES, of_regions
from vgg.transferring.provenance import WHOLE_IMAGE

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class TrackedTransfer:
    """A transfer test, as its run in MLflow has it."""

    net: str
    recipe: str
    combine: str
    regions: tuple[str, ...]
    scales: str
    data: str
    measures: dict[str, float]
    """In percent."""
    deviations: dict[str, float]
    """Standard deviation over random splits, of those that have some."""
    run_id: str
    identity: str
    facts: TransferFacts | None
    """None if they are missing, or edited since."""

    def note(self, measure: str) -> str:
        """Nets, images and deviation."""
        parts = [self.net, self.recipe]
        if self.facts is not None:
            parts.append(f"{self.facts.learned_from:,} images learned from")
        if measure in self.deviations:
            parts.append(f"± {self.deviations[measure]:.1f}")
        return ", ".join(parts)


def tracked_transfer(run: "Run") -> TrackedTransfer | None:
    """The result of a run of kind `transfer`; None for others. Measures come from parameters, which MLflow does
    not let anybody change."""
    tags, params = run.data.tags, run.data.params
    if tags.get("kind") != KIND or not any(name in params for name in MEASURES):
        return None
    facts = TransferFacts.from_tags(tags)
    inputs = run.inputs.dataset_inputs if run.inputs else []
    deviations = {name: params.get(f"{name}_std", "None") for name in MEASURES}
    return TrackedTransfer(
        net=params["net"],
        recipe=params["recipe"],
        combine=params["combine"],
        regions=tuple(params.get("regions", "+".join(WHOLE_IMAGE)).split("+")),
        scales=tags.get("scales", ""),
        data=inputs[0].dataset.name if inputs else "unknown data",
        measures={name: float(params[name]) for name in MEASURES if name in params},
        deviations={name: float(text) for name, text in deviations.items() if text != "None"},
        run_id=run.info.run_id,
        identity=params.get("identity") or tags.get("identity", run.info.run_id),
        facts=facts if facts is not None and facts.is_of(params) else None,
    )


def transfer_tables(results: Sequence[TrackedTransfer]) -> list[ComparisonTable]:
    """Those of tables 11 and 12 of whose data anything was tested, then one for each data set of the other
    results; these come newest first."""
    newest = list({result.identity: result for result in reversed(results)}.values())
    cells = {result.identity: cell(result.facts) for result in newest}
    tables = []
    for table in TABLES:
        if not any(_is_of_its_data(result, table) for result in newest):
            continue
        rows = []
        for row, value in zip(table.rows, table.values, strict=True):
            found = [each for each in newest if cells[each.identity] == (table, row)]
            ours = (found[-1].measures[table.measure], None) if found else None
            note = found[-1].note(table.measure) if found else ""
            rows.append(ComparisonRow(row.name, (value, None), ours, note))
        title = f"Table {table.number}. {table.title}, %"
        tables.append(ComparisonTable(title, "paper", tuple(rows), higher_is_better=True))
    others: dict[str, list[ComparisonRow]] = {}
    for result in sorted(newest, key=lambda each: (each.data, each.net, each.scales)):
        if cells[result.identity] is None:
            for name, value in result.measures.items():
                title = f"Transfer, {result.data}: {MEASURES[name]}, %"
                others.setdefault(title, []).append(_other_row(result, name, value))
    for title, other_rows in others.items():
        tables.append(ComparisonTable(title, "published", tuple(other_rows), higher_is_better=True))
    return tables


def _is_of_its_data(result: TrackedTransfer, table: TransferTable) -> bool:
    """By its name or, as for the paper's tests of that table, by the number of classes."""
    if table.sources:
        return result.data in table.sources
    return result.facts is not None and result.facts.classes == table.classes


def _other_row(result: TrackedTransfer, measure: str, value: float) -> ComparisonRow:
    how = f"{result.combine}{of_regions(result.regions)}"
    label = f"{result.net}, Q = {result.scales.replace('+', ', ')} ({how})"
    notes = [result.note(measure)]
    if result.facts is None:
        notes.append(EARLIER_VERSION)
    elif near := [table for table in TABLES if table.classes == result.facts.classes]:
        differing = result.facts.differences_of_nets
        differing += [reason for table in near if (reason := table.difference(result.facts)) is not None]
        notes.append(f"not as in the paper: {', '.join(dict.fromkeys(differing)) or 'no such nets'}")
    return ComparisonRow(label, (None, None), (value, None), "; ".join(notes))
