"""Tracked localisation tests laid out as the paper's tables 8 to 10, and as a table for each other data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vgg.metrics.interval import wilson_interval
from vgg.reporting.comparison import ComparisonRow, ComparisonTable
from vgg.reporting.localisation_facts import LocalisationFacts
from vgg.reporting.localisation_run import KIND
from vgg.reporting.paper_conditions import CLASSES, EARLIER_VERSION, ILSVRC
from vgg.reporting.paper_localisation import TABLES, box_row, matches
from vgg.reporting.paper_results import Errors

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class TrackedBoxes:
    """A localisation test, as its run in MLflow has it."""

    net: str
    recipe: str
    protocol: str
    scales: str
    data: str
    split: str
    images: int
    errors: Errors
    """Of the most probable class or the true one, and of five."""
    top1_wrong: int
    mean_box_wrong: int | None
    run_id: str
    identity: str
    facts: LocalisationFacts | None
    """None if they are missing, or edited since."""

    @property
    def note(self) -> str:
        """Images and interval, and what the mean box would score."""
        low, high = wilson_interval(self.top1_wrong, self.images)
        text = f"{self.net}, {self.recipe}, {self.images:,} images, {low:.1f} to {high:.1f}"
        if self.mean_box_wrong is None:
            return text
        low, high = wilson_interval(self.mean_box_wrong, self.images)
        error = 100 * self.mean_box_wrong / self.images
        return f"{text}; the mean box with the true class {error:.1f} ({low:.1f} to {high:.1f})"


def tracked_boxes(run: "Run") -> TrackedBoxes | None:
    """The result of a run of kind `localise`; None for others. Errors come from parameters, which MLflow does
    not let anybody change."""
    tags, params = run.data.tags, run.data.params
    if (
        tags.get("kind") != KIND
        or not {"top1_wrong", "top5_wrong", "mean_box_wrong", "images"} <= params.keys()
    ):
        return None
    facts, images = LocalisationFacts.from_tags(tags), int(params["images"])
    wrong = {key: _count(params[f"{key}_wrong"]) for key in ("top1", "top5", "mean_box")}
    top1, top5 = wrong["top1"] or 0, wrong["top5"]
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return TrackedBoxes(
        net=params["net"],
        recipe=params["recipe"],
        protocol=params["protocol"],
        scales=tags.get("scales", ""),
        data=inputs[0].dataset.name if inputs else "unknown data",
        split=params["split"],
        images=images,
        errors=(100 * top1 / images, None if top5 is None else 100 * top5 / images),
        top1_wrong=top1,
        mean_box_wrong=wrong["mean_box"],
        run_id=run.info.run_id,
        identity=params.get("identity") or tags.get("identity", run.info.run_id),
        facts=facts if facts is not None and facts.is_of(params) else None,
    )


def localisation_tables(results: Sequence[TrackedBoxes]) -> list[ComparisonTable]:
    """Tables 8 to 10, if anything of their data was tested, then one for each data set of the other results;
    these come newest first."""
    newest = list({result.identity: result for result in reversed(results)}.values())
    ours = [result for result in newest if box_row(result.facts) is not None]
    tables = []
    for table in TABLES if any(result.data == ILSVRC for result in newest) else ():
        rows = []
        for row in table.rows:
            found = [each for each in ours if each.facts is not None and matches(row, each.facts)]
            # Only what the row states is compared: with the true class, or of five classes.
            errors: Errors | None = None
            if found:
                stated = [reference is not None for reference in row.errors]
                top1, top5 = (e if there else None for e, there in zip(found[-1].errors, stated, strict=True))
                errors = (top1, top5)
            rows.append(ComparisonRow(row.label, row.errors, errors, found[-1].note if found else ""))
        tables.append(ComparisonTable(f"Table {table.number}. {table.title}", "paper", tuple(rows)))
    others: dict[str, list[ComparisonRow]] = {}
    for result in sorted(
        newest, key=lambda each: (each.data, each.split, each.net, each.protocol, each.scales)
    ):
        if result not in ours:
            title = result.data if result.split == "val" else f"{result.data}, split {result.split}"
            others.setdefault(title, []).append(_other_row(result))
    for data, rows in others.items():
        tables.append(ComparisonTable(f"Localisation, {data}", "published", tuple(rows)))
    return tables


def _other_row(result: TrackedBoxes) -> ComparisonRow:
    label = f"{result.net}, {result.protocol}, Q = {result.scales.replace('+', ', ')}"
    notes = [result.note]
    if result.facts is None:
        notes.append(EARLIER_VERSION)
    elif result.facts.facts.classes == CLASSES:
        differing = result.facts.differences or ["no such net, protocol and scales in the paper's tables"]
        notes.append(f"not as in the paper: {', '.join(differing)}")
    return ComparisonRow(label, (None, None), result.errors, "; ".join(notes))


def _count(text: str) -> int | None:
    return None if text == "None" else int(text)
