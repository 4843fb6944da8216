"""Tracked results laid out as the paper's tables, and as a table for each other data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vgg.metrics.top5 import has_top5
from vgg.reporting.comparison import ComparisonRow, ComparisonTable
from vgg.reporting.evaluation_run import ERROR_DIGITS
from vgg.reporting.facts import Facts
from vgg.reporting.paper_conditions import (
    CLASSES,
    EARLIER_VERSION,
    differences,
    reference,
    row_key,
    tiny_imagenet_errors,
)
from vgg.reporting.paper_results import TABLES, Errors, ResultKey

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
    identity: str
    """Equal for repetitions of one test."""
    interval: tuple[float, float] | None
    """95 % interval of the top-1 error."""
    split: str
    facts: Facts | None

    @property
    def note(self) -> str:
        """Net, recipe, images and interval."""
        interval = f", {self.interval[0]:.1f} to {self.interval[1]:.1f}" if self.interval else ""
        return f"{self.net}, {self.recipe}, {self.images:,} images{interval}"


def best_by_data(results: Sequence[TrackedResult]) -> dict[str, list[str]]:
    """Data set -> ids of its runs, the lowest top-1 error first; of a repeated evaluation the newest.

    `results` come newest first.
    """
    return {
        data: [r.run_id for r in sorted(_newest(of_data), key=lambda r: r.errors[0] or 0.0)]
        for data, of_data in _by_data(results).items()
    }


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
        _errors(run),
        round(metrics["images"]),
        run.info.run_id,
        tags.get("identity") or run.data.params.get("posteriors_sha256", run.info.run_id),
        (metrics["top1_error_low"], metrics["top1_error_high"]) if "top1_error_low" in metrics else None,
        tags.get("split", "unknown"),
        _unedited_facts(run),
    )


def _errors(run: "Run") -> Errors:
    """From the counts, which are parameters and cannot be changed; of an earlier version's run its metrics.

    Of five classes or fewer no top-5 error, which earlier versions tracked.
    """
    params, metrics = run.data.params, run.data.metrics
    if {"top1_wrong", "top5_wrong", "images"} <= params.keys():
        images = int(params["images"])
        top1, top5 = (100 * int(params[f"{key}_wrong"]) / images for key in ("top1", "top5"))
    else:
        top1, top5 = metrics["top1_error"], metrics["top5_error"]
    return top1, top5 if has_top5(int(run.data.tags["classes"])) else None


def _unedited_facts(run: "Run") -> Facts | None:
    """None if they, or the errors, are not those that the test was tracked with."""
    facts, metrics = Facts.from_tags(run.data.tags), run.data.metrics
    if facts is None or not facts.is_of(run.data.params):
        return None
    for name, error in zip(("top1_error", "top5_error"), _errors(run), strict=True):
        # Earlier versions did not round.
        if error is not None and metrics.get(name) not in (error, round(error, ERROR_DIGITS)):
            return None
    return facts


def paper_tables(results: Sequence[TrackedResult]) -> list[ComparisonTable]:
    """The paper's tables, if anything of as many classes as its data was tested; `results` come newest first,
    and the newest fills a cell."""
    if not any(result.classes == CLASSES for result in results):
        return []
    of_row = {key: result for result in reversed(results) if (key := row_key(result.facts)) is not None}
    tables = []
    for table in TABLES:
        rows = []
        for row in table.rows:
            ours = of_row.get(row.key) if row.key is not None else None
            errors, note = (ours.errors, ours.note) if ours else (None, "")
            rows.append(ComparisonRow(row.label, row.errors, errors, note, ours.interval if ours else None))
        tables.append(ComparisonTable(f"Table {table.number}. {table.title}", "paper", tuple(rows)))
    return tables


def other_tables(results: Sequence[TrackedResult]) -> list[ComparisonTable]:
    """A table for each data set and split, of results in no cell of the paper's, with what differs."""
    tables = []
    others = [result for result in results if row_key(result.facts) is None]
    for data, of_data in _by_data(others).items():
        newest = sorted(_newest(of_data), key=lambda r: (r.kind, r.net, r.key.protocol, r.key.scales))
        classes = " or ".join(sorted({str(result.classes) for result in newest}))
        rows = tuple(_row(result) for result in newest)
        title, remark = f"{data}, {classes} classes", of_largest_class(newest)
        tables.append(ComparisonTable(title, "published", rows, remark=remark))
    return tables


def of_largest_class(results: Sequence[TrackedResult]) -> str:
    """A sentence on what a net that has learnt nothing reaches; none of results that do not tell."""
    shares = sorted({result.facts.majority_share for result in results if result.facts is not None})
    if not shares:
        return ""
    of_images, error = (
        " or ".join(f"{100 * value:.1f} %" for value in values)
        for values in (shares, [1 - share for share in shares])
    )
    return f"The largest class is {of_images} of the images: always answering it has an error of {error}."


def _by_data(results: Sequence[TrackedResult]) -> dict[str, list[TrackedResult]]:
    """Results by the name of their data set, with the split if it is not val."""
    found: dict[str, list[TrackedResult]] = {}
    for result in sorted(results, key=lambda result: (result.data, result.split)):
        data = result.data if result.split == "val" else f"{result.data}, split {result.split}"
        found.setdefault(data, []).append(result)
    return found


def _newest(results: Sequence[TrackedResult]) -> list[TrackedResult]:
    """The newest of each identity; `results` come newest first."""
    return list({result.identity: result for result in reversed(results)}.values())


def _row(result: TrackedResult) -> ComparisonRow:
    scales = ", ".join(map(str, result.key.scales))
    notes = [result.note]
    with_norm, plain = tiny_imagenet_errors(result.facts)
    if with_norm is not None or plain is not None:
        shown = ["–" if error is None else f"{error:.1f}" for error in (with_norm, plain)]
        notes.append(f"published: with batch normalisation and Adam {shown[0]}, plain VGG {shown[1]}")
    elif result.classes == CLASSES:
        differing = differences(result.facts) or ["no such nets, protocol and scales in the paper's tables"]
        notes.append(f"not as in the paper: {', '.join(differing)}")
    else:
        notes += _unusual(result)
    label = f"{' + '.join(result.key.nets)}, {result.key.protocol}, Q = {scales}"
    return ComparisonRow(label, reference(result.facts), result.errors, "; ".join(notes), result.interval)


def _unusual(result: TrackedResult) -> list[str]:
    """Precision, grid and averaging, as one tells two tests apart by."""
    if result.facts is None:
        return [EARLIER_VERSION]
    nets = result.facts.nets
    found = {net.precision for net in nets} | {f"data {result.facts.data[:8]}"}
    found |= {f"grid {net.grid}" for net in nets if net.protocol == "multi-crop"}
    found |= {f"dense averages {net.average}" for net in nets if net.protocol == "dense"}
    return [", ".join(sorted(found))]


def _data_name(run: "Run") -> str:
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return inputs[0].dataset.name if inputs else run.data.params.get("data", "unknown data")
