"""A study of two tiny nets, run for real: a failed step, a kill, a damaged result, a change of the code."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image

from cli.errors import Failure, UserError
from cluster.connection import connect
from pipelines.storage.folder import Folder
from tests import entry_point
from tests.conftest import ROOT
from tests.studies.small import STEPS, options, small_study
from vgg import study as command
from vgg.studies.record import Cost, StepResult, fault_of
from vgg.studies.registry import STUDIES
from vgg.study import run_study
from vgg.testing import posteriors
from vgg.weights.open_run import open_run

NODES = 2 * 5
FIRST = "first"


def records(out: Path) -> dict[str, dict]:
    """Name of a step -> what it left; each is there once."""
    found = [json.loads(file.read_text()) for file in out.glob("steps/*/step.json")]
    assert len({record["name"] for record in found}) == len(found)
    return {record["name"]: record for record in found}


def result_of(record: dict) -> StepResult:
    """A step as its own record has it."""
    fields = {name: record[name] for name in ("name", "kind", "folder", "identity", "outputs")}
    return StepResult(**fields, cost=Cost(**record["cost"]))


def written(out: Path) -> dict[str, int]:
    """When each step was entered as done."""
    return {file.parent.name: file.stat().st_mtime_ns for file in out.glob("steps/*/step.json")}


def report(out: Path) -> dict:
    return json.loads((out / "report" / "report.json").read_text())


@pytest.fixture(scope="module")
def finished(ray_cluster, digits, tmp_path_factory) -> Iterator[Path]:
    """A study with a training that diverges, run once: everything else is done."""
    connect(ray_cluster.head.address)
    out = tmp_path_factory.mktemp("study") / "out"
    with pytest.raises(Failure, match=r"bad\.0 failed: the loss became .*its log: .*logs/bad\.0\.log"):
        run_study(small_study(with_bad=True), options(out, digits))
    first = out.parent / FIRST  # a repeated study writes its own
    shutil.copytree(out / "report", first / "report")
    shutil.copy(out / "state.json", first)
    yield out
    ray.shutdown()


def test_a_failure_stops_only_what_depends_on_it(finished):
    states = json.loads((finished.parent / FIRST / "state.json").read_text())["states"]
    stopped = {name: state for name, state in states.items() if state != "done"}
    assert stopped == {"bad.0": "failed", "bad.1": "failed", "test-bad.0": "not run", "test-bad.1": "not run"}
    assert len(records(finished)) == NODES


def test_a_training_starts_from_the_weights_of_the_other(finished):
    found = records(finished)
    for seed in (0, 1):
        first, second = found[f"first.{seed}"], found[f"second.{seed}"]
        assert second["identity"]["model.start_from"] == first["outputs"]["weights"]["sha256"]
        assert open_run(second["folder"]).seed == seed
        assert json.loads((Path(second["folder"]) / "result.json").read_text())["steps"] == STEPS


def test_the_fusion_is_of_the_tests(finished):
    found = records(finished)
    fused = posteriors.read(Folder(found["fuse.0"]["folder"]).child("result"), "posteriors.arrow")
    members = []
    for name in ("test-first.0", "test-second.0"):
        output = found[name]["outputs"]["dense single"]
        member = posteriors.read(Folder(found[name]["folder"]).child(output["folder"]), "posteriors.arrow")
        members.append(np.asarray(member.posteriors_NK))
    assert np.asarray(fused.posteriors_NK) == pytest.approx((members[0] + members[1]) / 2)


def test_the_report_has_every_test_with_mean_and_spread(finished):
    first = finished.parent / FIRST
    text = (first / "report" / "report.md").read_text()
    tests = {(t["step"], t["protocol"]): t["top1_error"] for t in report(first)["tests"]}
    assert set(tests) == {
        *((step, protocol) for step in ("first", "second") for protocol in ("single-crop", "dense")),
        ("fuse", "dense"),
    }
    one, two = tests["first", "dense"].values()
    mean, spread = (one + two) / 2, abs(one - two) / 2**0.5
    assert f"| first, dense, single | 34 | {mean:.2f} ± {spread:.2f} |" in text
    assert "Not done: bad.0, test-bad.0, bad.1, test-bad.1." in text
    assert "first less second" in text
    html = (first / "report" / "report.html").read_text()
    assert f"{mean:.2f} ± {spread:.2f}" in html
    assert html.count("data:image/png") == 2, "curves and answers"
    for name in ("curves.png", "answers.png"):
        assert f"]({name})" in text
        with Image.open(first / "report" / name) as picture:
            assert picture.format == "PNG"
    assert "| val top-1 | val loss |" in text, "the digits have no hold-out"


def test_repeated_nothing_is_made_again_but_what_is_damaged(finished, digits, capsys):
    before, tables = written(finished), report(finished)
    run_study(small_study(), options(finished, digits))
    assert written(finished) == before

    damaged = Path(records(finished)["test-second.1"]["folder"])
    file = next(damaged.rglob("dense-*/posteriors.arrow"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    run_study(small_study(), options(finished, digits))
    remade = {name for name, when in written(finished).items() if when != before[name]}
    assert remade == {damaged.name}
    assert report(finished) == tables


def test_a_weight_that_is_damaged_is_noticed(finished, tmp_path):
    record = records(finished)["first.0"]
    result = result_of(record)
    assert fault_of(result) is None
    checkpoints = Path(record["folder"]) / "checkpoints"
    file = checkpoints / json.loads((checkpoints / "index.json").read_text())["best"] / "model.safetensors"
    kept = file.read_bytes()
    file.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    assert "damaged" in str(fault_of(result))
    file.write_bytes(kept)


@pytest.mark.parametrize(
    ("text", "fault"), [(None, "result.json"), ("{", "result.json is not JSON"), ("{}", "is of other class")]
)
def test_a_result_that_is_missing_or_damaged_is_noticed(finished, text, fault):
    record = records(finished)["test-first.0"]
    result = result_of(record)
    assert fault_of(result) is None
    file = next(Path(record["folder"]).rglob("dense-*/result.json"))
    kept = file.read_text()
    file.unlink()
    if text is not None:
        file.write_text(text)
    assert fault in str(fault_of(result))
    file.write_text(kept)


def test_other_code_makes_its_own_results_unless_any_may_count(finished, digits, monkeypatch, capsys):
    before = written(finished)
    monkeypatch.setattr(command, "code_version", lambda: "0" * 64)
    shown = options(finished, digits, dry_run=True, only=("first",), seeds=1)
    run_study(small_study(), shown)
    assert "1 steps, 0 done" in capsys.readouterr().out
    run_study(small_study(), options(finished, digits, any_code=True, dry_run=True))
    assert f"{NODES} steps, {NODES} done" in capsys.readouterr().out
    assert written(finished) == before


def test_stopped_and_repeated_gives_the_same_tables(ray_cluster, digits, finished, tmp_path):
    """SIGTERM, then SIGKILL, each when one more step is done: weights and tables as of one never stopped."""
    out, done = tmp_path / "out", dict[str, int]()
    program = [sys.executable, "-m", "tests.studies.small", str(out), str(digits)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        driver = subprocess.Popen(
            program,
            cwd=ROOT,
            env=entry_point.environment(ray_cluster.head),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 120
        while len(written(out)) <= len(done):
            assert driver.poll() is None, "the study ended before it could be stopped"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        driver.send_signal(number)
        _, said = driver.communicate(timeout=60)
        if number == signal.SIGTERM:
            assert driver.returncode == 128 + number
            assert said.count("stopped: what is done is kept, and the same command goes on from there") == 1
        assert {name: when for name, when in written(out).items() if name in done} == done
        done = written(out)
    assert len(done) < NODES

    run_study(small_study(), options(out, digits))
    assert {name: when for name, when in written(out).items() if name in done} == done
    ours, theirs = report(out), report(finished)
    assert ours["weights_sha256"] == theirs["weights_sha256"]
    assert ours["tests"] == theirs["tests"]
    assert ours["differences"] == theirs["differences"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": ""}, "--out is missing"),
        ({"data": "/nowhere"}, "--data"),
        ({"seeds": 0}, "--seeds must be from 1 to 100"),
        ({"only": ("nothing",)}, "--only nothing is no step of study digits; its steps: first, second"),
        ({"track": "mlflow.db"}, "--track mlflow.db is not the address of an MLflow server"),
    ],
)
def test_mistakes_start_nothing(digits, tmp_path, changes, message):
    wrong = options(tmp_path / "out", digits, **changes)
    with pytest.raises(UserError, match=message):
        run_study(small_study(), wrong)
    assert not (tmp_path / "out").exists()


def test_a_study_that_needs_a_holdout_is_not_run_without(digits, tmp_path):
    study = replace(small_study(), needs_holdout=True)
    with pytest.raises(UserError, match=r"has no split holdout, .*pack it with --holdout-share 0\.1"):
        run_study(study, options(tmp_path / "out", digits))
    assert not (tmp_path / "out").exists()


def test_other_classes_are_refused_before_anything_starts(digits, tmp_path):
    with pytest.raises(UserError, match=r"--data .* does not fit depth-11: .* 200 classes, the data 10"):
        run_study(STUDIES["tiny-imagenet"], options(tmp_path / "out", digits))
    assert not (tmp_path / "out").exists()
