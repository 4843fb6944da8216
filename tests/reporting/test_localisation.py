"""Localisation tests in the report: what fills a cell of tables 8 to 10, and a test tracked on a real
server."""

import json
from dataclasses import replace

import numpy as np
import pytest
from mlflow import MlflowClient

from pipelines.storage.folder import Folder
from vgg.localisation.errors import BoxErrors
from vgg.localisation.provenance import BoxNet, BoxProvenance
from vgg.metrics.interval import wilson_interval
from vgg.pictures.boxes import box_montage
from vgg.report import ReportOptions, report
from vgg.reporting.localisation_facts import LocalisationFacts
from vgg.reporting.localisation_run import publish_boxes, summary
from vgg.reporting.localisation_tables import localisation_tables, tracked_boxes
from vgg.reporting.paper_localisation import TABLES, box_row

WNIDS = tuple(f"n{k:08d}" for k in range(1000))
LABELS = [k % 1000 for k in range(50_000)]
CHAINS = {"256": ("paper-d",), "384": ("paper-d-384", "paper-d")}


def box_net(suffix="384", scales=(384,), **changes):
    """A net of the paper, by the recipe of that suffix."""
    at = suffix[:3]
    net = BoxNet(
        f"paper-d-boxes-{suffix}", f"sha-{suffix}", f"paper-d-boxes-{suffix}", "D", at, "single" if "single" in
        suffix else "per-class", "digest", CHAINS[at], f"sha-{at}", True, scales, "fp32",
    )  # fmt: skip
    return replace(net, **changes)


def provenance(*nets, protocol="dense", **changes):
    found = BoxProvenance(
        "digest", "ILSVRC-2012", "val", WNIDS, WNIDS, 1_281_167, protocol, nets or (box_net(),)
    )
    return replace(found, **changes)


def facts(*nets, labels=LABELS, threshold=0.5, **changes):
    return LocalisationFacts.of(provenance(*nets, **changes), labels, threshold)


ROWS = [
    (facts(box_net("384-single-fc"), protocol="centre"), (36.4, None)),
    (facts(box_net("384-fc"), protocol="centre"), (34.3, None)),
    (facts(protocol="centre"), (33.1, None)),
    (facts(box_net("256", (256,))), (None, 29.5)),
    (facts(), (None, 28.2)),
    (facts(box_net(scales=(352, 384))), (None, 27.5)),
    (facts(box_net("256", (256,)), box_net(scales=(352, 384))), (None, 26.9)),
]


@pytest.mark.parametrize(("genuine", "errors"), ROWS)
def test_the_papers_own_tests_fill_cells(genuine, errors):
    assert genuine.differences == []
    row = box_row(genuine)
    assert row is not None
    assert row.errors == errors
    assert LocalisationFacts.from_tags(genuine.to_tags()) == genuine


FORGERIES = {
    "another data set": facts(source="image folder photos"),
    "part of the images": facts(labels=LABELS[:49_000]),
    "unequal classes": facts(labels=[0, *LABELS[:-1]]),
    "another split": facts(split="train"),
    "fewer training images": facts(train_images=1_000_000),
    "classes that are no WNIDs": facts(classes=tuple(f"class {k}" for k in range(1000))),
    "another threshold": facts(threshold=0.4),
    "another classifier": facts(box_net(own_classifier=False)),
    "an overridden recipe": facts(box_net(recipe="paper-d-boxes-384 (overridden)")),
    "an unfinished training": facts(box_net(recipe="paper-d-boxes-384 (unfinished)")),
    "the recipe for any net": facts(box_net(recipe="boxes")),
    "from random weights": facts(box_net(started_from=())),
    "from a net of another scale": facts(box_net(started_from=("paper-d",))),
    "from a chain cut short": facts(box_net(started_from=("paper-d-384",))),
    "bf16": facts(box_net(precision="bf16")),
    "trained on other data": facts(box_net(trained_on="other")),
    "other scales": facts(box_net(scales=(352,))),
    "E": facts(box_net(configuration="E")),
    "one net twice": facts(box_net("256", (256,)), box_net(scales=(352, 384), weights_sha256="sha-256")),
    "the centre crop by the net of another row": facts(box_net("256", (256,)), protocol="centre"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_nothing_else_does(name):
    assert box_row(FORGERIES[name]) is None


def test_the_tables_as_the_paper_prints_them():
    printed = [[row.errors for row in table.rows] for table in TABLES]
    assert [table.number for table in TABLES] == [8, 9, 10]
    assert printed[0] == [(36.4, None), (34.3, None), (33.1, None)]
    assert printed[1] == [(None, 29.5), (None, 28.2), (None, 27.5), (None, 26.9)]


@pytest.fixture(scope="module")
def tracked(mlflow_server, tmp_path_factory):
    """Two tests as the paper's, one of another data set; the experiment's runs."""
    root, experiment = tmp_path_factory.mktemp("localised"), "localised"
    errors = BoxErrors(50_000, 20_000, 14_000, 0.5, 30_000, ())
    image = np.zeros((20, 30, 3), np.uint8)
    figure = box_montage([image], ["a"], np.array([[0, 0, 1, 1]]), [np.array([[0, 0, 0.5, 1]])], [0.5])
    centre = replace(errors, top5_wrong=None)
    for name, of, counted in [
        ("dense", provenance(), errors),
        ("centre", provenance(protocol="centre"), centre),
        ("other", provenance(source="image folder photos", data="other digest"), errors),
    ]:
        found = LocalisationFacts.of(of, LABELS, 0.5)
        for _ in range(2):  # published again, the same run
            result = publish_boxes(
                Folder(str(root / name)), of, counted, found, figure, mlflow_server.url, experiment
            )
        assert result["tracked_at"]
    client = MlflowClient(mlflow_server.url)
    stored = client.get_experiment_by_name(experiment)
    assert stored is not None
    return client, experiment, client.search_runs([stored.experiment_id], max_results=100), root


def test_a_tracked_test_has_its_picture_and_errors(tracked):
    client, _, runs, root = tracked
    assert len(runs) == 3
    for run in runs:
        assert [file.path for file in client.list_artifacts(run.info.run_id, "pictures")] == [
            "pictures/boxes.png"
        ]
        assert run.data.metrics["localisation/top1_error"] == 40
        assert run.data.metrics["localisation/mean_box_error"] == 60
    text = summary(json.loads((root / "dense" / "result.json").read_text()))
    low, high = wilson_interval(14_000, 50_000)
    assert f"top-5 localisation error: 28.00 % ({low:.2f} to {high:.2f})" in text


def test_the_report_has_them_beside_the_papers(tracked, mlflow_server, tmp_path):
    _, experiment, _, _ = tracked
    report(ReportOptions(track=mlflow_server.url, experiment=experiment, out=tmp_path / "report", log=False))
    text = (tmp_path / "report" / "report.md").read_text()
    low, high = wilson_interval(20_000, 50_000)
    of_row = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "| 33.1 | 40.0 | +6.9 |" in of_row["every layer tuned, a box a class"]
    assert "| 28.2 | 28.0 | -0.2 |" in of_row["S = 384, Q = 384 (test set: 26.7)"]
    assert f"50,000 images, {low:.1f} to {high:.1f}" in of_row["S = 384, Q = 384 (test set: 26.7)"]
    assert of_row["S = 256, Q = 256 (test set: –)"].count("–") >= 3
    assert "Localisation, image folder photos" in text
    assert "not as in the paper: data image folder photos" in text
    assert len(json.loads((tmp_path / "report" / "report.json").read_text())) == 3


def test_edited_facts_fill_no_cell(tracked):
    _, _, runs, _ = tracked
    for run in runs:
        run.data.tags["localisation"] = facts(protocol="centre").to_tags()["localisation"]
    results = [found for run in runs if (found := tracked_boxes(run)) is not None]
    believed = [result for result in results if result.facts is not None]
    assert [result.protocol for result in believed] == ["centre"]  # the one that says so itself
    tables = localisation_tables(results)
    assert [table.reference_name for table in tables[:3]] == ["paper"] * 3
    assert sum(row.ours is not None for table in tables[:3] for row in table.rows) == 1


def test_tests_of_other_data_leave_the_papers_tables_out(tracked):
    results = [found for run in tracked[2] if (found := tracked_boxes(run)) is not None]
    others = [result for result in results if result.data != "ILSVRC-2012"]
    assert [table.title for table in localisation_tables(others)] == ["Localisation, image folder photos"]
