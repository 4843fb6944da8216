"""Tracked results laid out as the paper's tables, and as a table for each other data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vgg.reporting.paper_results import PAPER_CLASSES, TABLES, Errors, ResultKey, reference_errors
from vgg.reporting.render import ComparisonRow, ComparisonTable

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class TrackedResult:
    """Result of an evaluation or an ensemble, as its run in MLflow has it."""

    key: ResultKey
    kind: str
    """eval or ensemble."""
    net: str
    recipe: str
    data: str
    """Name of the data set."""
    classes: int
    errors: Errors
    images: int
    run_id: str


def best_by_data(results: Sequence[TrackedResult]) -> dict[str, list[str]]:
    """Data set -> ids of its runs, the lowest top-1 error first; of a repeated evaluation the newest.

    `results` come newest first.
    """
    best = {}
    for data in sorted({result.data for result in results}):
        newest = _newest([result for result in results if result.data == data])
        best[data] = [result.run_id for result in sorted(newest, key=lambda result: result.errors[0] or 0.0)]
    return best


def tracked_result(run: "Run") -> TrackedResult | None:
    """The result of a run of kind `eval` or `ensemble`; None for other runs and unfinished ones."""
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


def paper_tables(results: Sequence[TrackedResult]) -> list[ComparisonTable]:
    """The paper's tables; `results` come newest first, and the newest fills a cell."""
    on_imagenet = {result.key: result for result in reversed(results) if result.classes == PAPER_CLASSES}
    tables = []
    for table in TABLES:
        rows = []
        for row in table.rows:
            ours = on_imagenet.get(row.key) if row.key is not None else None
            rows.append(
                ComparisonRow(
                    row.label,
                    row.errors,
                    ours.errors if ours else None,
                    f"{ours.net} on {ours.images:,} images" if ours else "",
                )
            )
        tables.append(ComparisonTable(f"Table {table.number}. {table.title}", "paper", tuple(rows)))
    return tables


def other_tables(results: Sequence[TrackedResult]) -> list[ComparisonTable]:
    """A table for every other data set: all its results by kind, net, protocol and scales."""
    tables = []
    others = [result for result in results if result.classes != PAPER_CLASSES]
    for data in sorted({result.data for result in others}):
        newest = _newest([result for result in others if result.data == data])
        rows = [
            _row(result)
            for result in sorted(newest, key=lambda r: (r.kind, r.net, r.key.protocol, r.key.scales))
        ]
        classes = " or ".join(sorted({str(result.classes) for result in newest}))
        tables.append(ComparisonTable(f"{data}, {classes} classes", "published", tuple(rows)))
    return tables


def _newest(results: Sequence[TrackedResult]) -> list[TrackedResult]:
    """The newest of those with equal net and key; `results` come newest first."""
    return list({(result.net, result.key): result for result in reversed(results)}.values())


def _row(result: TrackedResult) -> ComparisonRow:
    scales = ", ".join(map(str, result.key.scales))
    return ComparisonRow(
        f"{' + '.join(result.key.nets)}, {result.key.protocol}, Q = {scales}",
        reference_errors(result.key, result.classes, result.data),
        result.errors,
        f"{result.net}, {result.recipe}, {result.images:,} images",
    )


def _data_name(run: "Run") -> str:
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return inputs[0].dataset.name if inputs else run.data.params.get("data", "unknown data")
