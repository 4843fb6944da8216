"""A study's run on a real MLflow server: parent of its steps' runs, one for all attempts, through an outage."""

from pathlib import Path

import mlflow
import pytest

from vgg.pictures.graph import graph_figure
from vgg.tracking.sender import RUN_TAG
from vgg.tracking.study_run import StudyRun

EXPERIMENT = "a study"
NEEDS = {"a.0": (), "test-a.0": ("a.0",), "b.0": ("a.0",)}


@pytest.fixture
def client(mlflow_server) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(mlflow_server.url)


def study_run(url: str) -> StudyRun:
    return StudyRun(url, EXPERIMENT, "u" * 32, "study digits", {"study": "digits"})


def test_it_is_the_parent_of_its_steps_and_one_run_for_all_attempts(mlflow_server, client, tmp_path, capsys):
    experiment = client.create_experiment(EXPERIMENT)
    trained = client.create_run(experiment, tags={RUN_TAG: "t" * 32}).info.run_id
    tested = client.create_run(experiment).info.run_id
    states = {"a.0": "done", "test-a.0": "running", "b.0": "waiting"}
    picture = {"graph.png": graph_figure(NEEDS, states)}
    report = tmp_path / "report.html"
    report.write_text("<html></html>")

    first = study_run(mlflow_server.url)
    assert first.update({"states": states}, {"steps_done": 1.0}, {"t" * 32: "a.0"}, picture)
    mlflow_server.kill()
    assert not first.update({"states": states}, {"steps_done": 1.0}, {}, picture)
    assert not first.update({"states": states}, {"steps_done": 1.0}, {}, picture)
    assert capsys.readouterr().err.count("is not up to date") == 1
    mlflow_server.start()

    page_of_test = f"{mlflow_server.url}/#/experiments/1/runs/{tested}"
    children = {"t" * 32: "a.0", page_of_test: "test-a.0", "0" * 32: "b.0"}
    again = study_run(mlflow_server.url)
    files = {str(report): "report"}
    assert again.update({"states": states}, {"steps_done": 2.0}, children, picture, files, "FINISHED")
    assert again.url == first.url
    (parent,) = client.search_runs([experiment], "tags.kind = 'study'")
    assert (parent.info.status, parent.data.metrics["steps_done"]) == ("FINISHED", 2.0)
    found = {run_id: client.get_run(run_id).data.tags for run_id in (trained, tested)}
    assert {tags["mlflow.parentRunId"] for tags in found.values()} == {parent.info.run_id}
    assert {run_id: tags["step"] for run_id, tags in found.items()} == {trained: "a.0", tested: "test-a.0"}
    logged = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert logged == {"graph.png", "state.json", "report"}
    (page,) = client.list_artifacts(parent.info.run_id, "report")
    assert Path(page.path).name == "report.html"
