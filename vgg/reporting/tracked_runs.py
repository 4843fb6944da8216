"""The runs of an MLflow experiment, and the learning curves of its trainings."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cli.errors import UserError
from vgg.pictures.curves import Curve

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

CURVE_POINTS = 2000


def tracked_runs(uri: str, experiment: str) -> "tuple[MlflowClient, str, list[Run]]":
    """A client, the experiment's id and all its runs, the newest first.

    UserError if the server does not answer or has no such experiment.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient(uri)
    try:
        stored = client.get_experiment_by_name(experiment)
        if stored is None:
            raise UserError(
                f"{uri} has no experiment {experiment!r}: train or evaluate with --track {uri} first"
            )
        runs: list[Any] = []
        page = None
        while page is None or page.token:
            page = client.search_runs(
                [stored.experiment_id],
                max_results=1000,
                order_by=["start_time DESC"],
                page_token=page.token if page is not None else None,
            )
            runs += page
    except MlflowException as error:
        raise UserError(f"the MLflow server {uri} does not answer: {error}") from error
    return client, stored.experiment_id, runs


def learning_curves(client: "MlflowClient", runs: "Sequence[Run]") -> list[Curve]:
    """Top-1 validation errors of every training by the number of training images seen."""
    curves = []
    for run in runs:
        if run.data.tags.get("kind") != "train" or "val/top1_error" not in run.data.metrics:
            continue
        errors = {p.step: p.value for p in client.get_metric_history(run.info.run_id, "val/top1_error")}
        batch = float(run.data.params.get("train.batch", 256))
        name = f"{run.info.run_name} ({run.info.run_id[:6]})"
        steps = sorted(errors)[:CURVE_POINTS]
        inputs = run.inputs.dataset_inputs if run.inputs else []
        data = run.data.tags.get("data") or (inputs[0].dataset.name if inputs else "unknown data")
        curves.append(Curve(name, [batch * step for step in steps], [errors[step] for step in steps], data))
    return curves
