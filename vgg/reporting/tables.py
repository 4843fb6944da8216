"""Tracked tests laid out as the paper's tables, and as tables of other data sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vgg.reporting.paper_results import PAPER_CLASSES, TABLES, Errors, ResultKey, published
from vgg.reporting.render import ComparisonRow, ComparisonTable

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class TrackedResult:
    """A tracked test of ours."""

    tested: ResultKey
    kind: str
    net: str
    recipe: str
    data: str
    classes: int
    errors: Errors
    images: int
    run_id: str


def best_by_data(tests: Sequence[TrackedResult]) -> dict[str, list[str]]:
    """Data set -> ids of its runs, the best first; of a test that was repeated the newest.

    `tests` come newest first.
    """
    found = {}
    for data in sorted({test.data for test in tests}):
        newest = {(test.net, test.tested): test for test in reversed(tests) if test.data == data}
        found[data] = [test.run_id for test in sorted(newest.values(), key=lambda test: test.errors[0] or 0.0)]
    return found


def tracked_result(run: "Run") -> TrackedResult | None:
    """What a run of kind `eval` or `ensemble` says; None for other runs and unfinished ones."""
    tags, metrics = run.data.tags, run.data.metrics
    if tags.get("kind") not in ("eval", "ensemble") or "top1_error" not in metrics or "tested" not in tags:
        return None
    return TrackedResult(
        ResultKey(tuple(tags["tested"].split()), tags["protocol"], tuple(map(int, tags["scales"].split("+")))),
        tags["kind"],
        tags["net"],
        tags["recipe"],
        _data_name(run),
        int(tags["classes"]),
        (metrics["top1_error"], metrics["top5_error"]),
        round(metrics["images"]),
        run.info.run_id,
    )


def paper_tables(tests: Sequence[TrackedResult]) -> list[ComparisonTable]:
    """The paper's tables; `tests` come newest first, and the newest fills a cell."""
    of_imagenet = {test.tested: test for test in reversed(tests) if test.classes == PAPER_CLASSES}
    sections = []
    for table in TABLES:
        rows = []
        for row in table.rows:
            ours = of_imagenet.get(row.tested) if row.tested is not None else None
            rows.append(
                ComparisonRow(
                    row.label,
                    row.paper,
                    ours.errors if ours else None,
                    f"{ours.net} on {ours.images:,} images" if ours else "",
                )
            )
        sections.append(ComparisonTable(f"Table {table.number}. {table.title}", "paper", tuple(rows)))
    return sections


def other_tables(tests: Sequence[TrackedResult]) -> list[ComparisonTable]:
    """One table for every other data set: all its tests, by net, then protocol, then scales."""
    sections = []
    others = [test for test in tests if test.classes != PAPER_CLASSES]
    for data in sorted({test.data for test in others}):
        newest = {(test.net, test.tested): test for test in reversed(others) if test.data == data}
        rows = []
        for test in sorted(newest.values(), key=lambda t: (t.kind, t.net, t.tested.protocol, t.tested.scales)):
            scales = ", ".join(map(str, test.tested.scales))
            label = f"{' + '.join(test.tested.nets)}, {test.tested.protocol}, Q = {scales}"
            note = f"{test.net}, {test.recipe}, {test.images:,} images"
            rows.append(ComparisonRow(label, published(test.tested, test.classes, data), test.errors, note))
        classes = " or ".join(sorted({str(test.classes) for test in newest.values()}))
        sections.append(ComparisonTable(f"{data}, {classes} classes", "published", tuple(rows)))
    return sections


def _data_name(run: "Run") -> str:
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return inputs[0].dataset.name if inputs else run.data.params.get("data", "unknown data")
