"""What an experiment of MLflow holds: its runs, and their learning curves."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
from vgg.pictures.curves import Curve

CURVE_POINTS = 2000


def tracked_runs(uri: str, experiment: str) -> "tuple[MlflowClient, str, list[Run]]":
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


def learning_curves(client: "MlflowClient", runs: "Sequence[Run]") -> list[Curve]:
    """Validation error by epoch of every training."""
    curves = []
    for run in runs:
        if run.data.tags.get("kind") != "train" or "val/top1_error" not in run.data.metrics:
            continue
        errors = {p.step: p.value for p in client.get_metric_history(run.info.run_id, "val/top1_error")}
        batch = float(run.data.params.get("train.batch", 256))
        name = f"{run.info.run_name} ({run.info.run_id[:6]})"
        steps = sorted(errors)[:CURVE_POINTS]
        curves.append(Curve(name, [batch * step for step in steps], [errors[step] for step in steps]))
    return curves
