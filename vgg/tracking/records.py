"""What MLflow links to a run: its data set, the model it made, the models it tested.

A net is one LoggedModel of an experiment, found by the digest of its weights.
"""

import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file

from vgg.net.architecture import Architecture
from vgg.net.module import VGG
from vgg.tracking.mlflow_client import Undeliverable, own_work, upload_timeout
from vgg.tracking.model_page import describe
from vgg.tracking.run_info import RunInfo

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric, Run
    from mlflow.models import ModelSignature

MAX_DIGEST_CHARACTERS = 36  # MLflow's limit


def link_dataset(client: "MlflowClient", run: "Run", info: RunInfo) -> None:
    """Link a run to its data set, once."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if run.inputs and run.inputs.dataset_inputs:
        return
    source = json.dumps({"uri": info.data_source})
    dataset = Dataset(info.data_name, info.data_digest[:MAX_DIGEST_CHARACTERS], "local", source)
    context = InputTag("mlflow.data.context", info.data_context)
    client.log_inputs(run.info.run_id, [DatasetInput(dataset, [context])])


def log_model(client: "MlflowClient", run: "Run", info: RunInfo, event: dict[str, Any], file: Path) -> None:
    """Log the net of a safetensors file as a LoggedModel, named by configuration and step; nothing if the run
    has logged it already.

    A run that repeats another and ends with the same weights has a model of its own.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    run_id, step = run.info.run_id, event["step"]
    digest = event["weights_sha256"]
    own = [
        each for each in _find_models(client, run.info.experiment_id, digest) if each.source_run_id == run_id
    ]
    model = own[0] if own else None
    if model is None:
        model = client.create_logged_model(
            run.info.experiment_id,
            name=f"{event['about']['architecture']['configuration']}-step-{step}",
            source_run_id=run_id,
            tags=_model_tags(info, event),
        )
    if model.status == LoggedModelStatus.READY:
        return
    outputs = client.get_run(run_id).outputs
    if not outputs or all(each.model_id != model.model_id for each in outputs.model_outputs):
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
    times = {key: _logged_time_ms(client, run_id, key, step) or event["time"] for key in event["metrics"]}
    client.log_batch(run_id, metrics=_dataset_metrics(run_id, event["metrics"], times, step, info, model))
    _upload_model(client, model, event["about"], file)
    describe(client, model.model_id)


def _model_tags(info: RunInfo, event: dict[str, Any]) -> dict[str, str]:
    """What a net is found by, and what its page says of it."""
    about = event["about"]
    return {
        "step": str(event["step"]),
        "weights_sha256": event["weights_sha256"],
        "configuration": about["architecture"]["configuration"],
        "recipe": str(about.get("recipe_name", "")),
        "data": info.data_name,
    }


def _upload_model(client: "MlflowClient", model: "LoggedModel", about: dict[str, Any], file: Path) -> None:
    """Upload the net itself, which makes the LoggedModel READY."""
    import mlflow
    from mlflow.entities import LoggedModelStatus
    from mlflow.models import Model

    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "model"
        with own_work():
            architecture = Architecture(**about["architecture"])
            net = VGG(architecture)
            net.load_state_dict(load_file(file))
            side = architecture.side
            mlflow.pytorch.save_model(
                net.eval(),
                exported,
                # without a run, all of whose metrics would be copied without data set
                mlflow_model=Model(
                    artifact_path=model.artifact_location,
                    model_uuid=model.model_id,
                    model_id=model.model_id,
                    metadata={"vgg": about},
                ),
                serialization_format="pt2",  # the exported graph: loads where this project is not installed
                signature=_signature(architecture),
                input_example=np.zeros((2, 3, side, side), np.float32),
                pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
            )
        with upload_timeout():
            client.log_model_artifacts(model.model_id, str(exported))
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def _signature(architecture: Architecture) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    side, float32 = architecture.side, np.dtype(np.float32)
    return ModelSignature(
        Schema([TensorSpec(float32, (-1, 3, side, side), "images_BCHW")]),
        Schema([TensorSpec(float32, (-1, architecture.outputs, 1, 1), "scores_BKhw")]),
    )


def log_scores(client: "MlflowClient", run: "Run", info: RunInfo, event: dict[str, Any]) -> None:
    """Log the metrics of a test, linked to its data set and, if it tested a single net, to that net.

    A net that MLflow does not know, such as torchvision's, gets a LoggedModel without files.
    """
    from mlflow.entities import LoggedModelInput

    experiment_id, run_id = run.info.experiment_id, run.info.run_id
    models = [
        _find_model(client, experiment_id, weights_sha256)
        or _create_model_without_files(client, experiment_id, weights_sha256, name)
        for weights_sha256, name in event["nets"].items()
    ]
    run = client.get_run(run_id)
    linked = {each.model_id for each in (run.inputs.model_inputs if run.inputs else None) or []}
    new = [LoggedModelInput(model.model_id) for model in models if model.model_id not in linked]
    if new:
        client.log_inputs(run_id, models=new)
    values = {key: value for key, value in event["metrics"].items() if key not in run.data.metrics}
    times = dict.fromkeys(values, event["time"])
    model = models[0] if len(models) == 1 else None
    client.log_batch(run_id, metrics=_dataset_metrics(run_id, values, times, 0, info, model))
    if model is not None:
        describe(client, model.model_id)


def _find_model(client: "MlflowClient", experiment_id: str, weights_sha256: str) -> "LoggedModel | None":
    """The model of these weights that tests are linked to: the first that a training logged."""
    found = _find_models(client, experiment_id, weights_sha256)
    return min(found, key=lambda model: (not model.source_run_id, model.creation_timestamp), default=None)


def _find_models(client: "MlflowClient", experiment_id: str, weights_sha256: str) -> "list[LoggedModel]":
    if not re.fullmatch(r"[\w-]*", weights_sha256):
        raise Undeliverable(f"{weights_sha256!r} is no digest of weights")
    return list(client.search_logged_models([experiment_id], f"tags.weights_sha256 = '{weights_sha256}'"))


def _create_model_without_files(
    client: "MlflowClient", experiment_id: str, weights_sha256: str, name: str
) -> "LoggedModel":
    from mlflow.entities import LoggedModelStatus

    allowed_name = "".join("-" if letter in "/:.%\"'" else letter for letter in name)
    tags = {"weights_sha256": weights_sha256}
    model = client.create_logged_model(experiment_id, name=allowed_name, tags=tags)
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return model


def _dataset_metrics(
    run_id: str,
    values: dict[str, float],
    times_ms: dict[str, int],
    step: int,
    info: RunInfo,
    model: "LoggedModel | None",
) -> "list[Metric]":
    """Metrics of the run that also belong to its data set and to `model`, without those the model has."""
    from mlflow.entities import Metric

    logged = {(metric.key, metric.run_id) for metric in (model.metrics or [])} if model is not None else set()
    return [
        Metric(
            key,
            value,
            times_ms[key],
            step,
            model_id=model.model_id if model is not None else None,
            dataset_name=info.data_name,
            dataset_digest=info.data_digest[:MAX_DIGEST_CHARACTERS],
        )
        for key, value in values.items()
        if (key, run_id) not in logged
    ]


def _logged_time_ms(client: "MlflowClient", run_id: str, key: str, step: int) -> int | None:
    """When the metric was logged at this step: with another time it would be a second point of the curve."""
    history = client.get_metric_history(run_id, key)
    return next((metric.timestamp for metric in history if metric.step == step), None)
