"""Transfer tests in the report: what fills a cell of table 11, and tests tracked on a real server."""

import json
from dataclasses import replace

import pytest
from mlflow import MlflowClient

from pipelines.storage.folder import Folder
from tests.transferring import made_features as made
from vgg.report import ReportOptions, report
from vgg.reporting.paper_transfer import TABLES, cell
from vgg.reporting.transfer_facts import TransferFacts
from vgg.reporting.transfer_run import publish_transfer, summary
from vgg.reporting.transfer_tables import tracked_transfer, transfer_tables
from vgg.transferring.fitting import Fit
from vgg.transferring.targets import Rule

VOC = (256, 384, 512, 640, 768)
E = replace(made.NET, net="e-1", weights_sha256="e" * 64, recipe="paper-e-jitter", configuration="E",
            started_from=("paper-e-384", "paper-e"))  # fmt: skip
CALTECH_FIT = Fit(("train",), ("val",), Rule(30, 50, 3), (1.0,), 0.2, 0)
VOC_FIT = Fit(("train", "val"), ("test",), Rule(0, 0, 1), (1.0,), 0.2, 0)
RECALLS = [
    {"trained_on": 3060, "images": 4000, "mean_class_recall": value, "accuracy": 90.0} for value in (91, 92, 93)
]
PRECISIONS = [{"trained_on": 5011, "images": 4952, "map_2007": 88.0, "map_2010": 90.0}]


def caltech(*nets, **changes):
    classes = tuple(f"class{k:03d}" for k in range(102))
    found = made.provenance(source="image folder 101_ObjectCategories", classes=classes, class_names=classes)
    return replace(found, **{"combine": "stack", "nets": nets or (made.NET,), **changes})


def voc(*nets):
    classes = tuple(f"class{k:02d}" for k in range(20))
    found = made.provenance(source="VOC-2007", classes=classes, class_names=classes)
    return replace(found, nets=tuple(replace(net, scales=VOC) for net in nets or (made.NET,)))


def actions(regions=("image",), *nets):
    classes = tuple(f"action{k}" for k in range(10))
    found = made.provenance(source="VOC-2012 actions", classes=classes, class_names=classes, regions=regions)
    return replace(found, nets=tuple(replace(net, scales=VOC) for net in nets or (made.NET, E)))


def facts(provenance, fit=CALTECH_FIT, images=9144, draws=RECALLS):
    return TransferFacts.of(provenance, fit, images, draws)


@pytest.mark.parametrize(
    ("found", "title", "row", "value"),
    [
        (facts(caltech()), "Caltech-101", "D", 91.8),
        (facts(caltech(E)), "Caltech-101", "E", 92.3),
        (facts(caltech(E, made.NET)), "Caltech-101", "D and E", 92.7),
        (facts(voc(), VOC_FIT, 9963, PRECISIONS), "VOC-2007", "D", 89.3),
        (facts(actions(), VOC_FIT, 12000, PRECISIONS), "VOC-2012 actions", "D and E, whole image", 79.2),
        (
            facts(actions(("image", "box")), VOC_FIT, 12000, PRECISIONS),
            "VOC-2012 actions",
            "D and E, image and box",
            84.0,
        ),
    ],
)
def test_the_papers_own_tests_fill_cells(found, title, row, value):
    assert TransferFacts.from_tags(found.to_tags()) == found
    placed = cell(found)
    assert placed is not None
    table, found_row = placed
    assert table.title.startswith(title)
    assert found_row.name == row
    assert table.values[table.rows.index(found_row)] == value


@pytest.mark.parametrize(
    "found",
    [
        facts(caltech(), images=9000),
        facts(caltech(combine="mean")),
        facts(caltech(), replace(CALTECH_FIT, rule=Rule(30, 0, 3))),
        facts(caltech(), replace(CALTECH_FIT, rule=Rule(30, 50, 1))),
        facts(caltech(replace(made.NET, scales=(256, 384)))),
        facts(caltech(replace(made.NET, precision="bf16"))),
        facts(caltech(replace(made.NET, recipe="paper-d-jitter (overridden)"))),
        facts(caltech(replace(made.NET, recipe="paper-d", trained_at="256", started_from=()))),
        facts(caltech(replace(made.NET, started_from=()))),
        facts(caltech(replace(made.NET, trained_on_name="Tiny ImageNet"))),
        facts(caltech(replace(made.NET, classes=200))),
        facts(voc(), replace(VOC_FIT, train=("train",)), 9963, PRECISIONS),
        facts(voc(), replace(VOC_FIT, test=("val",)), 9963, PRECISIONS),
        facts(replace(voc(), source="VOC-2008"), VOC_FIT, 9963, PRECISIONS),
        facts(replace(voc(), regions=("image", "box")), VOC_FIT, 9963, PRECISIONS),
        facts(caltech(regions=("box",))),
        facts(actions(("box",)), VOC_FIT, 12000, PRECISIONS),
        facts(actions(("image",), made.NET), VOC_FIT, 12000, PRECISIONS),
        facts(actions(), VOC_FIT, 4588, PRECISIONS),
        facts(actions(), replace(VOC_FIT, test=("val",)), 12000, PRECISIONS),
        facts(replace(actions(), combine="stack"), VOC_FIT, 12000, PRECISIONS),
        facts(replace(actions(), source="VOC-2011 actions"), VOC_FIT, 12000, PRECISIONS),
        None,
    ],
)
def test_what_differs_fills_none(found):
    assert cell(found) is None


def test_the_numbers_are_the_papers():
    assert [table.values for table in TABLES] == [
        (89.3, 89.3, 89.7),
        (89.0, 89.0, 89.3),
        (91.8, 92.3, 92.7),
        (85.0, 85.1, 86.2),
        (79.2, 84.0),
    ]
    assert all(len(table.values) == len(table.rows) for table in TABLES)


def test_whole_images_are_tagged_without_regions():
    """A tag without the field is of whole images."""
    assert "regions" not in json.loads(facts(caltech()).to_tags()["transfer"])
    assert facts(caltech()).digest != facts(caltech(regions=("box",))).digest


@pytest.fixture(scope="module")
def tracked(mlflow_server, tmp_path_factory):
    """Tests as the paper's of two data sets, and one of another net; the experiment's runs."""
    root, experiment = tmp_path_factory.mktemp("transferred"), "transferred"
    other = caltech(replace(made.NET, recipe="photos", weights_sha256="f" * 64, net="photos-1"))
    by_classes = CALTECH_FIT, RECALLS, 9144
    tests = {
        "caltech": (caltech(), *by_classes),
        "other": (other, *by_classes),
        "actions": (actions(("image", "box")), VOC_FIT, PRECISIONS, 12000),
    }
    for name, test in tests.items():
        for _ in range(2):  # published again, the same run
            result = publish_transfer(Folder(str(root / name)), *test, mlflow_server.url, experiment)
        assert result["tracked_at"]
    client = MlflowClient(mlflow_server.url)
    stored = client.get_experiment_by_name(experiment)
    assert stored is not None
    return experiment, client.search_runs([stored.experiment_id], max_results=100), root


def test_tracked_and_reported_beside_the_papers(tracked, mlflow_server, tmp_path):
    experiment, runs, root = tracked
    assert len(runs) == 3
    assert {run.data.metrics.get("transfer/mean_class_recall") for run in runs} == {92, None}
    text = summary(json.loads((root / "caltech" / "result.json").read_text()))
    assert "mean class recall: 92.00 % ± 1.00" in text
    report(ReportOptions(track=mlflow_server.url, experiment=experiment, out=tmp_path / "report", log=False))
    page = (tmp_path / "report" / "report.md").read_text()
    table = page.partition("Table 11. Caltech-101")[2].partition("##")[0]
    assert "| D | 91.8 | 92.0 | +0.2 |" in table
    assert "± 1.0" in table
    assert "| E | 92.3 | – |" in table
    others = page.partition("Transfer, image folder 101_ObjectCategories: mean class recall")[2]
    assert "not as in the paper: D@256-512 by photos" in others
    assert 'class="better">+0.2' in (tmp_path / "report" / "report.html").read_text()
    assert len(json.loads((tmp_path / "report" / "report.json").read_text())) == 3
    assert "Table 11. VOC" not in page, "nothing of this data was tested"
    of_actions = page.partition("Table 12. VOC-2012 actions")[2].partition("##")[0]
    assert "| D and E, image and box | 84.0 | 90.0 | +6.0 |" in of_actions
    assert "| D and E, whole image | 79.2 | – |" in of_actions


def test_edited_facts_fill_no_cell(tracked):
    _, runs, _ = tracked
    for run in runs:
        run.data.tags["transfer"] = facts(caltech(E)).to_tags()["transfer"]
    results = [found for run in runs if (found := tracked_transfer(run)) is not None]
    assert [result.facts for result in results] == [None] * 3
    papers = [table for table in transfer_tables(results) if table.reference_name == "paper"]
    assert [table.title.partition(",")[0] for table in papers] == ["Table 12. VOC-2012 actions"], "of its name"
    assert not [row for table in papers for row in table.rows if row.ours]
