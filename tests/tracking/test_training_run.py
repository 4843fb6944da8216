"""A training as MLflow and its result.json show it: its software, and the model of one that repeats another."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from cluster.layout import Worker
from pipelines.storage.folder import Folder
from tests.processes import job
from vgg.recipes.registry import RECIPES
from vgg.tracking.observers import training_observers
from vgg.tracking.software import software
from vgg.tracking.training_run import lowest_error
from vgg.training.loop import train
from vgg.training.run_folder import claim_folder

RECIPE = RECIPES["digits"][1]
SHORT = replace(
    RECIPE, model=replace(RECIPE.model, width=0.125), train=replace(RECIPE.train, steps=1, batch=16)
)
EARLIER = {"commit": "0" * 40, "torch": "1.0"}


@pytest.fixture(scope="module")
def trained(mlflow_server, digits, tmp_path_factory):
    """Folders of two trainings, the same to the last bit; an attempt at the first ran other software."""
    folders = []
    for i in range(2):
        asked = job(
            digits,
            tmp_path_factory.mktemp("run") / "out",
            SHORT,
            uid=f"repeated-{i}",
            tracking_uri=mlflow_server.url,
            experiment="repeated",
        )
        for versions in [EARLIER, software(), software()] if i == 0 else [software()]:
            claim_folder(Folder(asked.out), asked.plan, versions)
        outcome = train(Worker(0, 1, 0, torch.device("cpu"), 1), asked, training_observers)
        assert outcome.problem is None
        folders.append(Folder(asked.out))
    return folders


def runs(server):
    client = MlflowClient(server.url)
    experiment = client.get_experiment_by_name("repeated")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], order_by=["tags.`vgg.uid`"])
    return client, experiment.experiment_id, found


def test_results_name_the_software_of_every_attempt(trained):
    first, second = trained
    assert first.read_json("run.json")["software"] == [EARLIER, software()]
    assert first.read_json("result.json")["software"] == software()
    assert first.read_json("result.json")["earlier_software"] == [EARLIER]
    assert second.read_json("result.json")["earlier_software"] == []


def test_runs_name_it_too(trained, mlflow_server, tmp_path):
    client, _, found = runs(mlflow_server)
    for run, folder in zip(found, trained, strict=True):
        assert run.data.params["software.commit"] == software()["commit"]
        assert run.data.params["software.torch"] == software()["torch"]
        file = client.download_artifacts(run.info.run_id, "result.json", str(tmp_path))
        uploaded = json.loads(Path(file).read_text())
        kept = folder.read_json("result.json")
        assert {**uploaded, "tracked_at": None} == {**kept, "tracked_at": None}


def test_the_error_of_the_best_step_is_tracked_beside_the_last(trained, mlflow_server):
    _, _, found = runs(mlflow_server)
    for run, folder in zip(found, trained, strict=True):
        (validation,) = folder.read_json("result.json")["validations"]
        error = pytest.approx(100 * (1 - validation["top1"]), abs=1e-3)
        assert run.data.metrics["best/top1_error"] == run.data.metrics["val/top1_error"] == error


def test_a_worse_validation_leaves_the_best_as_it_is():
    assert lowest_error([{"top1": 0.875}, {"top1": 0.9}, {"top1": 0.896}]) == pytest.approx(10)


def test_a_repeated_training_has_a_model_of_its_own(trained, mlflow_server):
    digests = {folder.read_json("result.json")["weights_sha256"] for folder in trained}
    assert len(digests) == 1
    client, experiment_id, found = runs(mlflow_server)
    models = {model.model_id: model for model in client.search_logged_models([experiment_id])}
    for run in found:
        assert run.info.status == "FINISHED"
        (output,) = run.outputs.model_outputs
        model = models.pop(output.model_id)
        assert (model.source_run_id, model.status) == (run.info.run_id, "READY")
        assert {metric.run_id for metric in model.metrics} == {run.info.run_id}
    assert models == {}
