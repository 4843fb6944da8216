"""Our results beside the paper's, from tracked runs: `python -m vgg.report --track URI --out FOLDER`.

Writes report.html (one page), report.md and report.json, and logs them to MLflow as a run of kind `report`.
A cell is empty where nothing was run.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from cli.command import arguments, exit_codes
from cli.console import console
from cli.errors import UserError
from cli.files import require_writable
from cli.program import program
from vgg.pictures.curves import compared_curves
from vgg.reporting.cards import cards
from vgg.reporting.localisation_tables import localisation_tables, tracked_boxes
from vgg.reporting.render import to_html, to_markdown
from vgg.reporting.tables import TrackedResult, best_by_data, other_tables, paper_tables, tracked_result
from vgg.reporting.tracked_runs import learning_curves, tracked_runs
from vgg.reporting.transfer_tables import tracked_transfer, transfer_tables
from vgg.tracking import views
from vgg.tracking.server import tracking_uri, ui_page

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class ReportOptions:
    """The paper's tables 3 to 11 with our results beside them, and a table for each other data set."""

    track: str = ""
    """URI of the MLflow server. Default: MLFLOW_TRACKING_URI."""
    experiment: str = "vgg"
    """Name of the MLflow experiment."""
    out: Path = Path("report")
    """Folder to write the report to."""
    log: bool = True
    """Log the report to MLflow too."""


def main() -> None:
    """Write the report. Exit code 2 for a user's mistake."""
    options = tyro.cli(ReportOptions, prog=program("vgg.report"), args=arguments())
    with exit_codes():
        report(options)


def report(options: ReportOptions) -> None:
    """Write and log the report. UserError if the server does not answer or has no such experiment,
    or the folder cannot be written.
    """
    uri = tracking_uri(options.track)
    if uri is None:
        raise UserError("--track is missing: the URI of the MLflow server (or set MLFLOW_TRACKING_URI)")
    client, experiment_id, runs = tracked_runs(uri, options.experiment)
    require_writable(options.out / "report.html", "--out")
    results = [result for run in runs if (result := tracked_result(run)) is not None]
    curves = learning_curves(client, runs)
    boxes = [found for run in runs if (found := tracked_boxes(run)) is not None]
    transfers = [each for run in runs if (each := tracked_transfer(run)) is not None]
    tables = [*paper_tables(results), *localisation_tables(boxes), *transfer_tables(transfers)]
    tables += other_tables(results)
    tests = len(results) + len(boxes) + len(transfers)
    figure = compared_curves(curves) if curves else None
    contents = {
        "report.md": to_markdown(tables),
        "report.html": to_html(
            tables,
            figure,
            f"{tests} tests of experiment {options.experiment}",
            cards(results, lambda run_id: ui_page(uri, f"experiments/{experiment_id}/runs/{run_id}")),
        ),
        "report.json": json.dumps(
            [
                *map(_to_json, results),
                *({"kind": "localise", **asdict(each)} for each in boxes),
                *({"kind": "transfer", **asdict(each)} for each in transfers),
            ],
            indent=1,
        ),
    }
    files = [options.out / name for name in contents]
    for file, text in zip(files, contents.values(), strict=True):
        file.write_text(text, encoding="utf-8")
    out = console()
    out.print(f"{tests} tests: {options.out}/report.html, report.md, report.json")
    if options.log:
        run_id = _log(client, experiment_id, files)
        page = ui_page(uri, f"experiments/{experiment_id}/runs/{run_id}")
        out.print(f"tracked at {page}")
        for what, link in views.links(uri, experiment_id, best_by_data(results)).items():
            out.print(f"{what}: {link}")


def _to_json(result: TrackedResult) -> dict[str, object]:
    """A result as report.json has it."""
    fields = asdict(result)
    return {"tested": fields.pop("key"), **fields}


def _log(client: "MlflowClient", experiment_id: str, files: Sequence[Path]) -> str:
    """Log the files as a run of kind `report` and save the experiment's view; the run's id."""
    run_id = client.create_run(experiment_id, run_name="report", tags={"kind": "report"}).info.run_id
    for file in files:
        client.log_artifact(run_id, str(file))
    client.set_terminated(run_id)
    views.save_view(client, experiment_id)
    return run_id


if __name__ == "__main__":
    main()
