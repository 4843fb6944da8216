"""A training whose store goes away and stays away."""

import time
from dataclasses import replace

import torch
from mlflow import MlflowClient

from cluster.layout import Worker
from pipelines.storage.folder import Folder
from pipelines.storage.patience import Patience, StoreUnavailable
from tests.object_store import KEYS, ObjectStore
from tests.processes import job
from vgg.recipes.registry import RECIPES
from vgg.tracking.observers import training_observers
from vgg.training.events import Finished, Started, tell_end
from vgg.training.loop import train
from vgg.weights import lease

ALONE = Worker(0, 1, 0, torch.device("cpu"), 1)
PATIENCE_SECONDS = 6.0


class Killing:
    """Kills the server once the training has begun."""

    def __init__(self, server):
        self._server, self.killed_at = server, 0.0

    def handle(self, event):
        if isinstance(event, Started):
            self._server.kill()
            self.killed_at = time.monotonic()


def test_a_store_that_stays_away_ends_the_training_with_its_problem(
    digits, tmp_path, monkeypatch, mlflow_server, capsys
):
    """Which MLflow has, though the checkpoint, the log, the pictures and what MLflow is given of the folder are
    not there."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Folder.underway, "__defaults__", (Patience(PATIENCE_SECONDS, StoreUnavailable),))
    monkeypatch.setattr(lease, "RELEASE_SECONDS", PATIENCE_SECONDS)
    recipe = RECIPES["digits"][1]
    recipe = replace(recipe, train=replace(recipe.train, steps=20, checkpoint_steps=2, validation_steps=2))
    with ObjectStore(tmp_path) as server:
        tracked = {"tracking_uri": mlflow_server.url, "experiment": tmp_path.name}
        stored = job(digits, server.uri("out"), recipe, uid=f"{tmp_path.name:0>32}"[-32:], **tracked)
        killing = Killing(server)
        outcome = train(ALONE, stored, lambda context: [killing, *training_observers(context)])
        seconds = time.monotonic() - killing.killed_at
    assert outcome.result is None
    assert outcome.problem is not None
    assert "a checkpoint could not be written" in outcome.problem
    assert "--out s3://bucket/out/checkpoints/step-00000002" in outcome.problem
    assert outcome.problem.endswith("the same command goes on from the newest checkpoint")
    assert seconds > PATIENCE_SECONDS
    said = capsys.readouterr()
    assert said.err.count(f"waiting up to {PATIENCE_SECONDS:g} s") == 1
    client = MlflowClient(mlflow_server.url)
    experiment = client.get_experiment_by_name(tmp_path.name)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert run.data.tags["problem"] == outcome.problem


def test_all_are_told_of_an_end_that_one_of_them_cannot_keep():
    class Heard(list):
        def handle(self, event):
            self.append(event)

    class Failing:
        def handle(self, _):
            raise StoreUnavailable("result.json cannot be written")

    before, after = Heard(), Heard()
    assert tell_end([before, after], Finished({"steps": 1}, None)) is None
    assert tell_end([before, Failing(), after], Finished({"steps": 1}, None)) == "result.json cannot be written"
    assert [end.problem for end in before] == [None, None]
    assert after[1] == Finished(None, "result.json cannot be written")
    assert tell_end([Failing()], Finished(None, "a loss was no number")) == "a loss was no number"
