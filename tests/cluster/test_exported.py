"""A training's numbers on the metrics pages of a real cluster, and what dashboards and alerts read of them."""

import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from tests.conftest import ROOT
from tests.processes import job

MONITORING = ROOT / "k8s" / "components" / "monitoring"


class Trainer:
    """Tells the observer what a training of two workers tells."""

    def __init__(self, asked):
        from types import SimpleNamespace

        from cluster.exported import Gauges
        from cluster.layout import Worker
        from vgg.tracking.exported import ExportedMetrics
        from vgg.training.events import StepsDone
        from vgg.training.rank_times import RankTime

        worker = Worker(0, 2, 0, None, 1, export=Gauges())  # type: ignore[arg-type]
        observer = ExportedMetrics(SimpleNamespace(worker=worker, job=asked), lambda: True)  # type: ignore[arg-type]
        times = RankTime(0.5, 1.5, 0.25, 128), RankTime(0.125, 1.0, 1.125, 128)
        observer.handle(StepsDone(7, (2.25, 2.0), 1.0, 0.01, 4.0, 1.0, times))

    def ready(self):
        """Once the observer was told."""


def page(ray_cluster):
    """The text of all metrics pages."""
    folder = Path(ray_cluster.head.folder) / "ray"
    found = json.loads((folder / "prom_metrics_service_discovery.json").read_text())
    targets = [target for each in found for target in each["targets"]]
    return "".join(
        urllib.request.urlopen(f"http://{target}/metrics", timeout=10).read().decode() for target in targets
    )


def samples(text, run):
    """Name and our labels -> value, of this training: those of others, which ended, stand beside."""
    found = {}
    for name, labels, value in re.findall(r"^ray_vgg_(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if tags["run"] == run:
            found[name, tags.get("rank"), tags.get("part")] = float(value)
    return found


@pytest.mark.usefixtures("connected")
def test_dashboards_and_alerts_read_what_a_training_shows(ray_cluster, digits, tmp_path):
    asked = job(digits, tmp_path)
    actor: Any = ray.remote(Trainer)
    trainer = actor.options(num_cpus=0).remote(asked)
    ray.get(trainer.ready.remote())
    deadline = time.monotonic() + 90
    found: dict[tuple[str, str | None, str | None], float] = {}
    while len(found) < 12:
        assert time.monotonic() < deadline, found
        time.sleep(1)
        found = samples(page(ray_cluster), asked.uid[:8])
    ray.kill(trainer)
    assert found == {
        ("step", None, None): 7,
        ("steps_asked", None, None): asked.plan.total_steps,
        ("loss", None, None): 2,
        ("images_per_s", None, None): 2 * 256 / 4,
        ("data_wait_share", None, None): 0.25,
        ("tracking_behind", None, None): 1,
        ("step_seconds", "0", "data"): 0.5,
        ("step_seconds", "0", "compute"): 1.5,
        ("step_seconds", "0", "exchange"): 0.25,
        ("step_seconds", "1", "data"): 0.125,
        ("step_seconds", "1", "compute"): 1,
        ("step_seconds", "1", "exchange"): 1.125,
    }
    shown = {f"ray_vgg_{name}" for name, _, _ in found}
    alerts = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    rules = [rule["expr"] for group in alerts["spec"]["groups"] for rule in group["rules"]]
    panels = json.loads((MONITORING / "vgg-dashboard.json").read_text())["panels"]
    drawn = [target["expr"] for panel in panels for target in panel["targets"]]
    read = {name for text in [*rules, *drawn] for name in re.findall(r"ray_vgg_\w+", text)}
    assert read <= shown
    assert len(read) >= 6
