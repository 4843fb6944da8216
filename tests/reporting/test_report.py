"""Tests tracked on a real MLflow server, then the report made of them."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from mlflow import MlflowClient

from cli.errors import UserError
from pipelines.storage.folder import Folder
from vgg.metrics.accuracy import accuracy
from vgg.metrics.interval import wilson_interval
from vgg.report import ReportOptions, report
from vgg.reporting import paper_results
from vgg.reporting.facts import DIGEST_PARAM, Facts
from vgg.reporting.paper_conditions import differences, row_key
from vgg.reporting.publish import publish
from vgg.reporting.result import picture_title
from vgg.reporting.tables import best_by_data, tracked_result
from vgg.testing.posteriors import Posteriors, mean
from vgg.testing.provenance import EnsembleMember, Provenance
from vgg.tracking import views

IMAGES = 80


def posteriors(configuration, protocol, scales, *, classes, data, seed):
    """As an evaluation leaves them: the mean over scales, and over dense and multi-crop for both."""
    protocols = ("dense", "multi-crop") if protocol == "both" else (protocol,)
    passes = []
    for place, (each, scale) in enumerate((p, s) for p in protocols for s in scales):
        rng = np.random.default_rng([seed, place])
        labels_N = np.random.default_rng(0).integers(0, classes, IMAGES).astype(np.int32)
        odds_NK = rng.exponential(1, (IMAGES, classes))
        odds_NK[np.arange(IMAGES), labels_N] += rng.exponential(4, IMAGES)
        member = EnsembleMember(
            f"net-{configuration}",
            f"sha-{configuration}",
            "paper-x",
            configuration,
            "256-512",
            each,
            scale,
            "scores",
            5 if each == "multi-crop" else 1,
            "fp32",
        )
        names = tuple(f"class {k}" for k in range(classes))
        provenance = Provenance(f"digest of {data}", data, "val", names, names, ((member, 1.0),))
        posteriors_NK = (odds_NK / odds_NK.sum(1, keepdims=True)).astype(np.float32)
        passes.append(Posteriors(provenance, tuple(map(str, range(IMAGES))), labels_N, posteriors_NK))
    return mean(passes)


def genuine(facts):
    """A test's facts as if all images had been tested, by nets of the paper's recipes."""
    if facts.classes == 200:
        return replace(facts, images=10_000, train_images=100_000)
    chains = {"D@256-512": ("paper-d-384", "paper-d"), "E@256-512": ("paper-e-384", "paper-e")}
    nets = tuple(
        replace(
            net,
            recipe=f"paper-{net.net[0].lower()}-jitter",
            started_from=chains[net.net],
            trained_on_this_data=True,
        )
        for net in facts.nets
    )
    return replace(
        facts, images=50_000, train_images=1_281_167, wnids=True, images_per_class=(50, 50), nets=nets
    )


@pytest.fixture(scope="module")
def tracked(mlflow_server, tmp_path_factory):
    """D and E on 1000 classes by three protocols, fused; D on 200 classes. Name -> posteriors."""
    folder, found = tmp_path_factory.mktemp("tracked"), {}
    for configuration in "DE":
        for place, protocol in enumerate(("dense", "multi-crop", "both")):
            seed = place + ord(configuration)
            found[configuration, protocol] = posteriors(
                configuration, protocol, (256, 384, 512), classes=1000, data="ILSVRC-2012", seed=seed
            )
    found["D", "tiny"] = posteriors("D", "dense", (64,), classes=200, data="Tiny ImageNet", seed=9)
    for (configuration, name), each in found.items():
        target = Folder(str(folder)).child(f"{configuration}-{name}")
        result = publish(target, each, mlflow_server.url, "report", kind="eval").result
        assert result["tracked_at"].startswith(mlflow_server.url)
    fused = mean([found["D", "both"], found["E", "both"]])
    publish(Folder(str(folder)).child("fused"), fused, mlflow_server.url, "report", kind="ensemble")
    return folder, {**found, ("D+E", "both"): fused}


def runs(server, experiment="report"):
    client = MlflowClient(server.url)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    where = found.experiment_id
    return client, where, client.search_runs([where], max_results=100)


def one(found, **tags):
    """The one run with these tags."""
    (run,) = [run for run in found if tags.items() <= run.data.tags.items()]
    return run


def errors(of):
    scored = accuracy(of.posteriors_NK, of.labels_N)
    return scored.top1_error, scored.top5_error


def test_a_test_is_a_run_linked_to_its_net_and_data(mlflow_server, tracked):
    client, _, found = runs(mlflow_server)
    run = one(found, net="net-D", protocol="multi-crop")
    tags = {key: run.data.tags[key] for key in ("kind", "configuration", "scales", "recipe", "split")}
    assert tags == {
        "kind": "eval",
        "configuration": "D",
        "scales": "256+384+512",
        "recipe": "paper-x",
        "split": "val",
    }
    assert run.info.status == "FINISHED"
    assert (run.data.metrics["top1_error"], run.data.metrics["top5_error"]) == errors(
        tracked[1]["D", "multi-crop"]
    )
    assert run.inputs.dataset_inputs[0].dataset.name == "ILSVRC-2012"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"pictures", "result.json"}


def test_a_test_of_80_images_is_not_compared_with_published_errors(mlflow_server, tracked):
    """No metric says how far from the paper it is."""
    _, _, found = runs(mlflow_server)
    for run in found:
        assert not any("over_published" in name for name in run.data.metrics)


def test_a_nets_page_lists_every_protocol_by_data_set(mlflow_server, tracked):
    client, where, _ = runs(mlflow_server)
    (model,) = client.search_logged_models([where], "tags.weights_sha256 = 'sha-D'")
    listed = [(m.dataset_name, m.value) for m in model.metrics if m.key == "top1_error"]
    expected = [
        ("Tiny ImageNet" if name == "tiny" else "ILSVRC-2012", errors(each)[0])
        for (configuration, name), each in tracked[1].items()
        if configuration == "D"
    ]
    assert sorted(listed) == sorted(expected)
    described = model.tags["mlflow.note.content"].replace("&emsp;", "")
    rows = [line.split(" | ") for line in described.splitlines() if line.startswith(("| ILSVRC", "| Tiny"))]
    assert [(row[0].removeprefix("| "), float(row[5])) for row in rows] == [
        (data, pytest.approx(error, abs=0.005)) for data, error in sorted(expected)
    ]
    assert "| ILSVRC-2012 | multi-crop | 256, 384, 512 | 80 | " in described


def test_an_ensemble_is_linked_to_all_its_nets(mlflow_server, tracked):
    client, where, found = runs(mlflow_server)
    run = one(found, kind="ensemble")
    models = {m.model_id: m.tags["weights_sha256"] for m in client.search_logged_models([where])}
    linked = client.get_run(run.info.run_id).inputs.model_inputs
    assert {models[m.model_id] for m in linked} == {"sha-D", "sha-E"}


def test_published_twice_it_is_one_run(mlflow_server, tracked, tmp_path):
    """From another folder, as a repeated evaluation elsewhere would."""
    _, _, before = runs(mlflow_server)
    publish(Folder(str(tmp_path)), tracked[1]["D", "dense"], mlflow_server.url, "report", kind="eval")
    client, _, after = runs(mlflow_server)
    assert len(after) == len(before)
    which = {"net": "net-D", "protocol": "dense", "scales": "256+384+512"}
    run, earlier = one(after, **which), one(before, **which)
    assert run.info.run_name == "D dense 256+384+512"
    assert run.info.status == "FINISHED"
    assert run.info.end_time == earlier.info.end_time, "the test took no longer for being repeated"
    assert len(client.get_metric_history(run.info.run_id, "top1_error")) == 1


def test_the_columns_of_the_shared_view_are_there(mlflow_server, tracked, tmp_path):
    """Columns are tags and metrics of tests; comparable ones have the last but one, trainings the last."""
    report(ReportOptions(mlflow_server.url, "report", tmp_path))
    client, where, found = runs(mlflow_server)
    views = json.loads(client.get_experiment(where).tags["mlflow.sharedViewState.vgg"])
    test = one(found, kind="ensemble").data
    columns = [column.removesuffix("`").split(".`") for column in views["selectedColumns"]]
    there = [key in (test.tags if kind == "tags" else test.metrics) for kind, key in columns]
    assert there == [True] * 6 + [False] * 2
    difference, *bars = views["compareRunCharts"]
    assert difference["type"] == "DIFFERENCE"
    assert [chart["metricKey"] in test.metrics for chart in bars] == [True] * 2 + [False]


@pytest.fixture(scope="module")
def photos(mlflow_server, tmp_path_factory):
    """A net tested on own photographs of five classes by every protocol. Protocol -> posteriors."""
    folder, found = Folder(str(tmp_path_factory.mktemp("photos"))), {}
    for seed, protocol in enumerate(("single-crop", "dense", "multi-crop", "both")):
        found[protocol] = posteriors("A", protocol, (72,), classes=5, data="image folder photos", seed=seed)
        publish(folder.child(protocol), found[protocol], mlflow_server.url, "photos", kind="eval")
    return found


def test_own_photographs_stand_alone(mlflow_server, photos, tmp_path):
    """No column or table of the paper's, no top-5 error of five classes; the largest class alone is told."""
    report(ReportOptions(mlflow_server.url, "photos", tmp_path))
    markdown, page = ((tmp_path / f"report.{name}").read_text() for name in ("md", "html"))
    largest = 100 * np.bincount(photos["dense"].labels_N).max() / IMAGES
    for text in (markdown, page):
        assert f"The largest class is {largest:.1f} % of the images" in text
        assert f"always answering it has an error of {100 - largest:.1f} %." in text
        assert not [word for word in ("the paper", "difference", "ot run", "top-5") if word in text]
    cells = [line.split(" | ")[1] for line in markdown.splitlines() if line.startswith("| A@")]
    assert cells == [f"{error:.1f}" for error in sorted(errors(each)[0] for each in photos.values())]
    assert [each["errors"][1] for each in json.loads((tmp_path / "report.json").read_text())] == [None] * 4


def test_mlflow_has_no_top_5_of_five_classes(mlflow_server, photos):
    client, where, found = runs(mlflow_server, "photos")
    tests = [run for run in found if run.data.tags["kind"] == "eval"]
    assert len(tests) == 4
    for run in tests:
        assert "top5_error" not in run.data.metrics
        assert run.data.metrics["majority_share"] == np.bincount(photos["dense"].labels_N).max() / IMAGES
    (model,) = client.search_logged_models([where], "tags.weights_sha256 = 'sha-A'")
    header, _, *rows = model.tags["mlflow.note.content"].splitlines()[2:]
    assert [name.strip("| ").removeprefix("&emsp;") for name in header.split(" | ")] == [
        "data",
        "protocol",
        "Q",
        "images",
        "largest class, %",
        "top-1 error, %",
        "95 % interval",
    ]
    assert [row.count(" | ") for row in rows] == [6] * 4


def test_runs_compared_in_mlflow_begin_with_what_was_chosen(mlflow_server, photos):
    """Its pages show the first parameters, by name, in which the runs differ."""
    _, _, found = runs(mlflow_server, "photos")
    params = [run.data.params for run in found if run.data.tags["kind"] == "eval"]
    names = sorted({name for each in params for name in each})
    differ = [name for name in names if len({each.get(name) for each in params}) > 1]
    assert differ == ["protocol", "top1_wrong", DIGEST_PARAM]


def test_runs_of_earlier_versions_are_read(mlflow_server, photos):
    """Their digest is another parameter, and they have a top-5 error of however few classes."""
    client, _, found = runs(mlflow_server, "photos")
    new = one(found, kind="eval", protocol="dense")
    params = {"facts_sha256": new.data.params[DIGEST_PARAM], **new.data.params}
    del params[DIGEST_PARAM]
    tags = {key: value for key, value in new.data.tags.items() if not key.startswith(("mlflow.", "vgg."))}
    earlier = client.create_run(client.create_experiment("earlier"), tags=tags).info.run_id
    for key, value in params.items():
        client.log_param(earlier, key, value)
    for key, value in {**new.data.metrics, "top5_error": 0.0}.items():
        client.log_metric(earlier, key, value)
    read, expected = tracked_result(client.get_run(earlier)), tracked_result(new)
    assert read is not None
    assert expected is not None
    assert read.facts is not None
    assert (read.facts, read.errors) == (expected.facts, expected.errors)
    assert read.errors == (errors(photos["dense"])[0], None)
    client.log_param(earlier, DIGEST_PARAM, "0" * 64)
    edited = tracked_result(client.get_run(earlier))
    assert edited is not None
    assert edited.facts is None, "a digest that is added later proves nothing"


def test_the_confusion_matrix_is_titled_by_what_was_tested(photos, tmp_path):
    result = publish(Folder(str(tmp_path)), photos["both"], None, "vgg", kind="eval").result
    wrong = result["top1_wrong"]
    low, high = wilson_interval(wrong, IMAGES)
    assert picture_title(result).splitlines() == [
        "net-A on image folder photos",
        f"both, Q = 72: top-1 error {100 * wrong / IMAGES:.1f} % ({low:.1f} to {high:.1f}) of {IMAGES} images",
    ]


@pytest.mark.parametrize(("classes", "said"), [(5, False), (6, True)])
def test_five_classes_have_no_top_5(tmp_path, classes, said):
    scored = posteriors("A", "dense", [256], classes=classes, data="some", seed=0)
    result = publish(Folder(str(tmp_path)), scored, None, "vgg", kind="eval")
    assert ("top-5" in result.summary) == said


def test_the_best_of_each_data_set_are_compared(mlflow_server, tracked):
    """Tests of other data are no rivals; the login of a tracking URI is in no link."""
    _, where, found = runs(mlflow_server)
    tests = [test for run in found if (test := tracked_result(run)) is not None]
    best = best_by_data(tests)
    assert {data: len(ids) for data, ids in best.items()} == {"ILSVRC-2012": 7, "Tiny ImageNet": 1}
    errors_of = {run.info.run_id: run.data.metrics["top1_error"] for run in found if "tested" in run.data.tags}
    ordered = [errors_of[run_id] for run_id in best["ILSVRC-2012"]]
    assert ordered == sorted(ordered)
    links = views.links("http://me:secret@host:5000/", where, best)
    assert len(links) == 3
    assert all(link.startswith("http://host:5000/#/") for link in links.values())
    assert all("&workflowType=machine_learning" in link for link in links.values())


class Cells(HTMLParser):
    """Text of every cell of a page, row by row."""

    def __init__(self):
        super().__init__()
        self.rows, self.open = [], False

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        self.open = tag in ("td", "th")
        if self.open:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.open = False

    def handle_data(self, data):
        if self.open:
            self.rows[-1][-1] += data


def test_the_report_has_ours_beside_the_paper(mlflow_server, tracked, tmp_path, monkeypatch):
    """Where the tests are the paper's; of 80 images, they fill no cell and say why."""
    report(ReportOptions(mlflow_server.url, "report", tmp_path))
    markdown = (tmp_path / "report.md").read_text()
    assert "| D, dense | 24.8 / 7.5 | – | – |" in markdown
    assert "80 images instead of 50,000" in markdown
    of = Facts.of
    monkeypatch.setattr(Facts, "of", lambda posteriors: genuine(of(posteriors)))
    for name, each in tracked[1].items():
        target = Folder(str(tmp_path)).child("-".join(name))
        publish(target, each, mlflow_server.url, "genuine", kind="ensemble" if name[0] == "D+E" else "eval")
    monkeypatch.undo()
    report(ReportOptions(mlflow_server.url, "genuine", tmp_path))
    markdown = (tmp_path / "report.md").read_text()
    page = Cells()
    page.feed((tmp_path / "report.html").read_text())
    rows = {row[0]: row[1:4] for row in page.rows if len(row) == 5}
    expected = {
        "D, dense": (("D", "dense"), (24.8, 7.5)),
        "E, multi-crop": (("E", "multi-crop"), (24.6, 7.4)),
        "D + E, S = 256-512, both": (("D+E", "both"), (23.7, 6.8)),
        "D, S = 256-512, Q = 256, 384, 512": (("D", "dense"), (24.8, 7.5)),
    }
    for label, (name, theirs) in expected.items():
        ours = errors(tracked[1][name])
        cells = [
            f"{theirs[0]} / {theirs[1]}",
            f"{ours[0]:.1f} / {ours[1]:.1f}",
            f"{ours[0] - theirs[0]:+.1f} / {ours[1] - theirs[1]:+.1f}",
        ]
        assert rows[label] == cells
        assert "| " + " | ".join([label, *cells]) in markdown
    assert rows["A, S = 256, Q = 256"] == ["29.6 / 10.4", "–", "–"]
    tiny = errors(tracked[1]["D", "tiny"])
    assert rows["D@256-512, dense, Q = 64"][1] == f"{tiny[0]:.1f} / {tiny[1]:.1f}"
    assert len(json.loads((tmp_path / "report.json").read_text())) == len(tracked[1])
    client, _, found = runs(mlflow_server, "genuine")
    logged = next(r for r in found if r.data.tags.get("kind") == "report")
    assert {f.path for f in client.list_artifacts(logged.info.run_id)} == {
        "report.html",
        "report.md",
        "report.json",
    }


def test_what_was_edited_since_fills_no_cell(mlflow_server, tracked, tmp_path, monkeypatch):
    """Neither tags that make a test the paper's, nor errors that were logged later."""
    facts_of, each = Facts.of, tracked[1]["D", "dense"]
    publish(Folder(str(tmp_path)).child("tag"), each, mlflow_server.url, "edited tag", kind="eval")
    monkeypatch.setattr(Facts, "of", lambda posteriors: genuine(facts_of(posteriors)))
    publish(Folder(str(tmp_path)).child("metric"), each, mlflow_server.url, "edited metric", kind="eval")
    client, _, (run,) = runs(mlflow_server, "edited tag")
    client.set_tag(run.info.run_id, "facts", genuine(facts_of(each)).to_tags()["facts"])
    client, _, (run,) = runs(mlflow_server, "edited metric")
    genuine_one = tracked_result(run)
    assert genuine_one is not None
    assert row_key(genuine_one.facts) is not None
    client.log_metric(run.info.run_id, "top1_error", 1.0, step=1)
    for name in ("tag", "metric"):
        _, _, (run,) = runs(mlflow_server, f"edited {name}")
        found = tracked_result(run)
        assert found is not None
        assert row_key(found.facts) is None
        assert "edited since" in differences(found.facts)[0]
        assert found.errors == errors(each)


def test_the_papers_figures_are_those_of_the_facts(shared_data):
    """Every pair of errors that paper.md has in tables 3 to 7 is in ours, and none besides."""
    text = (shared_data.parent / "paper.md").read_text()
    for table in paper_results.TABLES:
        start = text.index(f"### Table {table.number}")
        section = re.split(r"\n##", text[start + 5 :])[0].partition("\n")[2]
        facts = re.findall(r"(\d+\.\d|–) ?/ ?(\d+\.\d)(?![\d.])", section)
        pairs = {tuple(None if n == "–" else float(n) for n in pair) for pair in facts}
        ours = {row.errors for row in table.rows}
        assert ours <= pairs, (table.number, ours - pairs)


def test_no_server_and_no_experiment_are_reported(mlflow_server, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="--track is missing"):
        report(ReportOptions(out=tmp_path / "out"))
    with pytest.raises(UserError, match="no experiment 'nothing'"):
        report(ReportOptions(mlflow_server.url, "nothing", tmp_path / "out"))
    with pytest.raises(UserError, match="does not answer"):
        report(ReportOptions("http://127.0.0.1:9", "vgg", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_reported(mlflow_server, tracked, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out .*file/report\.html cannot be written"):
        report(ReportOptions(mlflow_server.url, "report", tmp_path / "file"))


def test_a_net_that_was_fused_with_itself_is_no_net_of_a_table(tracked):
    """Two nets of one configuration are told apart from one."""
    one = tracked[1]["D", "dense"]
    members = tuple((replace(m, weights_sha256="other"), w) for m, w in one.provenance.members)
    other = replace(one, provenance=replace(one.provenance, members=members))
    assert len({m.weights_sha256 for m, _ in mean([one, other]).provenance.members}) == 2
