"""What a run is linked to in MLflow: its data set, the net it made, the nets it tested.

A net is one LoggedModel of an experiment, found by the digest of its weights.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file

from vgg.net.architecture import Architecture
from vgg.net.module import VGG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric, Run


DIGEST_LENGTH = 36  # MLflow's limit


UPLOAD_SECONDS = "900"


@dataclass(frozen=True)
class RunInfo:
    """What a tracked run is, and where it belongs."""

    uid: str
    """Found by this tag when a training is taken up again."""
    experiment: str
    name: str
    tags: dict[str, str]
    params: dict[str, str]
    data_name: str
    data_digest: str
    data_source: str
    data_context: str
    """training or evaluation."""
    started: int
    """Milliseconds since the epoch."""


def link_data(client: "MlflowClient", run: "Run", info: RunInfo) -> None:
    """Tie a run to its data set, once."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if run.inputs and run.inputs.dataset_inputs:
        return
    source = json.dumps({"uri": info.data_source})
    dataset = Dataset(info.data_name, info.data_digest[:DIGEST_LENGTH], "local", source)
    context = InputTag("mlflow.data.context", info.data_context)
    client.log_inputs(run.info.run_id, [DatasetInput(dataset, [context])])


def log_model(client: "MlflowClient", run: "Run", info: RunInfo, event: dict[str, Any], file: Path) -> None:
    """The net in a safetensors file as the LoggedModel `best`; one, however often this is told."""
    import mlflow
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    run_id, step = run.info.run_id, event["step"]
    model = _find(client, run.info.experiment_id, event["weights_sha256"]) or client.create_logged_model(
        run.info.experiment_id,
        name="best",
        source_run_id=run_id,
        tags={"step": str(step), "weights_sha256": event["weights_sha256"]},
    )
    if model.status == LoggedModelStatus.READY:
        return
    outputs = client.get_run(run_id).outputs
    if not outputs or all(each.model_id != model.model_id for each in outputs.model_outputs):
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
    times = {key: _time_of(client, run_id, key, step) or event["time"] for key in event["metrics"]}
    client.log_batch(run_id, metrics=_points(run_id, event["metrics"], times, step, info, model))
    architecture = Architecture(**event["about"]["architecture"])
    net = VGG(architecture)
    net.load_state_dict(load_file(file))
    side, float32 = architecture.side, np.dtype(np.float32)
    signature = ModelSignature(
        Schema([TensorSpec(float32, (-1, 3, side, side), "images_BCHW")]),
        Schema([TensorSpec(float32, (-1, architecture.classes, 1, 1), "scores_BKhw")]),
    )
    with patient_uploads():
        Model.log(
            None,
            mlflow.pytorch,
            model_id=model.model_id,  # and no run: it would be given all curves, without the data set
            pytorch_model=net.eval(),
            serialization_format="pt2",  # the graph itself: loads where this project is not installed
            signature=signature,
            input_example=np.zeros((2, 3, side, side), np.float32),
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
            metadata={"vgg": event["about"]},
        )


def log_scores(client: "MlflowClient", run: "Run", info: RunInfo, event: dict[str, Any]) -> None:
    """A test's errors: of its data set and, where one net was tested, of that net.

    A net that MLflow does not know yet, as torchvision's, gets a LoggedModel without files.
    """
    from mlflow.entities import LoggedModelInput, LoggedModelStatus

    models = []
    for weights_sha256, name in event["nets"].items():
        model = _find(client, run.info.experiment_id, weights_sha256)
        if model is None:
            model = client.create_logged_model(
                run.info.experiment_id, name=_allowed(name), tags={"weights_sha256": weights_sha256}
            )
            client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        models.append(model)
    run_id = run.info.run_id
    run = client.get_run(run_id)
    linked = {each.model_id for each in (run.inputs.model_inputs if run.inputs else None) or []}
    new = [LoggedModelInput(model.model_id) for model in models if model.model_id not in linked]
    if new:
        client.log_inputs(run_id, models=new)
    values = {key: value for key, value in event["metrics"].items() if key not in run.data.metrics}
    times = dict.fromkeys(values, event["time"])
    only = models[0] if len(models) == 1 else None
    client.log_batch(run_id, metrics=_points(run_id, values, times, 0, info, only))


@contextmanager
def patient_uploads() -> Iterator[None]:
    """Let a server take its time to store a large file: MLflow's one time limit also covers that wait."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ[name]
    os.environ[name] = max(before, UPLOAD_SECONDS, key=float)
    try:
        yield
    finally:
        os.environ[name] = before


def _find(client: "MlflowClient", experiment_id: str, weights_sha256: str) -> "LoggedModel | None":
    found = client.search_logged_models([experiment_id], f"tags.weights_sha256 = '{weights_sha256}'")
    return found[0] if found else None


def _points(
    run_id: str,
    values: dict[str, float],
    times: dict[str, int],
    step: int,
    info: RunInfo,
    model: "LoggedModel | None",
) -> "list[Metric]":
    """Points that are the data set's and the model's as well as the run's, but for those the model has."""
    from mlflow.entities import Metric

    there = {(point.key, point.run_id) for point in (model.metrics or [])} if model is not None else set()
    return [
        Metric(
            key,
            value,
            times[key],
            step,
            model_id=model.model_id if model is not None else None,
            dataset_name=info.data_name,
            dataset_digest=info.data_digest[:DIGEST_LENGTH],
        )
        for key, value in values.items()
        if (key, run_id) not in there
    ]


def _time_of(client: "MlflowClient", run_id: str, key: str, step: int) -> int | None:
    """When the curve's point was made: at any other time it would be a second point of the curve."""
    history = client.get_metric_history(run_id, key)
    return next((point.timestamp for point in history if point.step == step), None)


def _allowed(name: str) -> str:
    """A name that MLflow takes for a model."""
    return "".join("-" if letter in "/:.%\"'" else letter for letter in name)
