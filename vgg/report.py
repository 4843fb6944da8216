"""Ours beside the paper's, table by table, from tracked runs: `python -m vgg.report --track URI --out FOLDER`.

Leaves report.html (all on one page), report.md and report.json, and logs them to MLflow as a run of kind
`report`. A cell is empty where nothing was run.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.console import Console

from vgg import pictures, view
from vgg.command import complain, tracking_uri
from vgg.paper import PAPER_CLASSES, TABLES, Errors, Tested, published
from vgg.render import Cells, Section, to_html, to_markdown

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

CURVE_POINTS = 2000


@dataclass(frozen=True)
class Report:
    """Tables 3 to 7 with our figures beside the paper's, and the same of other data sets."""

    track: str = ""
    """URI of the MLflow server. Default: MLFLOW_TRACKING_URI."""
    experiment: str = "vgg"
    out: Path = Path("report")
    """Folder to leave the report in."""
    log: bool = True
    """Log the report to MLflow too."""


@dataclass(frozen=True)
class Found:
    """A tracked test of ours."""

    tested: Tested
    kind: str
    net: str
    recipe: str
    data: str
    classes: int
    errors: Errors
    images: int
    run_id: str


def main() -> None:
    """Write the report. Exit code 2 for a user's mistake."""
    options = tyro.cli(Report, prog="python -m vgg.report")
    try:
        report(options)
    except ValueError as error:
        sys.exit(complain(error, 2))


def report(options: Report) -> None:
    """Gather, lay out, write, log. ValueError where there is no server or no such experiment."""
    uri = tracking_uri(options.track)
    if uri is None:
        raise ValueError("--track is missing: the URI of the MLflow server (or set MLFLOW_TRACKING_URI)")
    client, experiment_id, runs = _tracked_runs(uri, options.experiment)
    tests = [test for run in runs if (test := found_test(run)) is not None]
    curves = _learning_curves(client, runs)
    sections = [*paper_sections(tests), *other_sections(tests)]
    figure = pictures.compared_curves(curves) if curves else None
    options.out.mkdir(parents=True, exist_ok=True)
    files = {
        "report.md": to_markdown(sections),
        "report.html": to_html(sections, figure, f"{len(tests)} tests of experiment {options.experiment}"),
        "report.json": json.dumps([asdict(test) for test in tests], indent=1),
    }
    for name, text in files.items():
        (options.out / name).write_text(text, encoding="utf-8")
    console = Console(soft_wrap=True)
    console.print(f"{len(tests)} tests: {options.out}/report.html, report.md, report.json", markup=False)
    if options.log:
        run = client.create_run(experiment_id, run_name="report", tags={"kind": "report"})
        for name in files:
            client.log_artifact(run.info.run_id, str(options.out / name))
        client.set_terminated(run.info.run_id)
        view.share(client, experiment_id)
        page = f"{view.address(uri)}/#/experiments/{experiment_id}/runs/{run.info.run_id}"
        console.print(f"tracked at {page}", markup=False)
        for what, link in view.links(uri, experiment_id, best_by_data(tests)).items():
            console.print(f"{what}: {link}", markup=False)


def best_by_data(tests: Sequence[Found]) -> dict[str, list[str]]:
    """Data set -> ids of its runs, the best first; of a test that was repeated the newest.

    `tests` come newest first.
    """
    found = {}
    for data in sorted({test.data for test in tests}):
        newest = {(test.net, test.tested): test for test in reversed(tests) if test.data == data}
        found[data] = [test.run_id for test in sorted(newest.values(), key=lambda test: test.errors[0] or 0.0)]
    return found


def found_test(run: "Run") -> Found | None:
    """What a run of kind `eval` or `ensemble` says; None for other runs and unfinished ones."""
    tags, metrics = run.data.tags, run.data.metrics
    if tags.get("kind") not in ("eval", "ensemble") or "top1_error" not in metrics or "tested" not in tags:
        return None
    return Found(
        Tested(tuple(tags["tested"].split()), tags["protocol"], tuple(map(int, tags["scales"].split("+")))),
        tags["kind"],
        tags["net"],
        tags["recipe"],
        _data_name(run),
        int(tags["classes"]),
        (metrics["top1_error"], metrics["top5_error"]),
        round(metrics["images"]),
        run.info.run_id,
    )


def paper_sections(tests: Sequence[Found]) -> list[Section]:
    """The paper's tables; `tests` come newest first, and the newest fills a cell."""
    of_imagenet = {test.tested: test for test in reversed(tests) if test.classes == PAPER_CLASSES}
    sections = []
    for table in TABLES:
        rows = []
        for row in table.rows:
            ours = of_imagenet.get(row.tested) if row.tested is not None else None
            rows.append(
                Cells(
                    row.label,
                    row.paper,
                    ours.errors if ours else None,
                    f"{ours.net} on {ours.images:,} images" if ours else "",
                )
            )
        sections.append(Section(f"Table {table.number}. {table.title}", "paper", tuple(rows)))
    return sections


def other_sections(tests: Sequence[Found]) -> list[Section]:
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
            rows.append(Cells(label, published(test.tested, test.classes, data), test.errors, note))
        classes = " or ".join(sorted({str(test.classes) for test in newest.values()}))
        sections.append(Section(f"{data}, {classes} classes", "published", tuple(rows)))
    return sections


def _tracked_runs(uri: str, experiment: str) -> "tuple[MlflowClient, str, list[Run]]":
    """All runs of an experiment, the newest first."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient(uri)
    try:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            raise ValueError(
                f"{uri} has no experiment {experiment!r}: train or evaluate with --track {uri} first"
            )
        runs: list[Any] = []
        page = None
        while page is None or page.token:
            page = client.search_runs(
                [found.experiment_id],
                max_results=1000,
                order_by=["start_time DESC"],
                page_token=page.token if page is not None else None,
            )
            runs += page
    except MlflowException as error:
        raise ValueError(f"the MLflow server {uri} does not answer: {error}") from error
    return client, found.experiment_id, runs


def _learning_curves(client: "MlflowClient", runs: "Sequence[Run]") -> list[pictures.Curve]:
    """Validation error by epoch of every training."""
    curves = []
    for run in runs:
        if run.data.tags.get("kind") != "train" or "val/top1_error" not in run.data.metrics:
            continue
        errors = {p.step: p.value for p in client.get_metric_history(run.info.run_id, "val/top1_error")}
        batch = float(run.data.params.get("train.batch", 256))
        name = f"{run.info.run_name} ({run.info.run_id[:6]})"
        steps = sorted(errors)[:CURVE_POINTS]
        curves.append(pictures.Curve(name, [batch * step for step in steps], [errors[step] for step in steps]))
    return curves


def _data_name(run: "Run") -> str:
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return inputs[0].dataset.name if inputs else run.data.params.get("data", "unknown data")


if __name__ == "__main__":
    main()
