"""Ours beside the paper's, table by table, from tracked runs: `python -m vgg.report --track URI --out FOLDER`.

Leaves report.html (all on one page), report.md and report.json, and logs them to MLflow as a run of kind
`report`. A cell is empty where nothing was run.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console

from cli.command import print_error
from vgg.reporting.render import to_html, to_markdown
from vgg.tracking import views
from vgg.tracking.server import tracking_uri

if TYPE_CHECKING:
    pass
from vgg.pictures.curves import compared_curves
from vgg.reporting.tables import best_by_data, other_tables, paper_tables, tracked_result
from vgg.reporting.tracked_runs import learning_curves, tracked_runs
from vgg.tracking.server import page_address


@dataclass(frozen=True)
class ReportOptions:
    """Tables 3 to 7 with our figures beside the paper's, and the same of other data sets."""

    track: str = ""
    """URI of the MLflow server. Default: MLFLOW_TRACKING_URI."""
    experiment: str = "vgg"
    out: Path = Path("report")
    """Folder to leave the report in."""
    log: bool = True
    """Log the report to MLflow too."""


def main() -> None:
    """Write the report. Exit code 2 for a user's mistake."""
    options = tyro.cli(ReportOptions, prog="python -m vgg.report")
    try:
        report(options)
    except ValueError as error:
        sys.exit(print_error(error, 2))


def report(options: ReportOptions) -> None:
    """Gather, lay out, write, log. ValueError where there is no server or no such experiment."""
    uri = tracking_uri(options.track)
    if uri is None:
        raise ValueError("--track is missing: the URI of the MLflow server (or set MLFLOW_TRACKING_URI)")
    client, experiment_id, runs = tracked_runs(uri, options.experiment)
    tests = [test for run in runs if (test := tracked_result(run)) is not None]
    curves = learning_curves(client, runs)
    sections = [*paper_tables(tests), *other_tables(tests)]
    figure = compared_curves(curves) if curves else None
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
        views.save_view(client, experiment_id)
        page = f"{page_address(uri)}/#/experiments/{experiment_id}/runs/{run.info.run_id}"
        console.print(f"tracked at {page}", markup=False)
        for what, link in views.links(uri, experiment_id, best_by_data(tests)).items():
            console.print(f"{what}: {link}", markup=False)


if __name__ == "__main__":
    main()
