"""A real S3 server, with data and run on it, is killed and started again while a training runs."""

import threading
import time
from dataclasses import replace

import torch

from cluster.layout import Layout, Worker
from pipelines.storage.folder import Folder
from tests.object_store import KEYS, ObjectStore
from tests.processes import job
from vgg.recipes.registry import RECIPES
from vgg.tracking.observers import training_observers
from vgg.training.events import Finished, StepsDone
from vgg.training.loop import train
from vgg.weights import retention

RECIPE = RECIPES["digits"][1]
ALONE = Worker(0, 1, 0, torch.device("cpu"), 1)


class Outage:
    """Kills a server now and starts it again after a while."""

    def __init__(self, store: ObjectStore, seconds: float) -> None:
        store.kill()
        self.began, self.ended = time.monotonic(), 0.0

        def end() -> None:
            store.start()
            self.ended = time.monotonic()

        threading.Timer(seconds, end).start()


def test_outages_at_the_start_at_a_checkpoint_and_at_the_end(digits, tmp_path, monkeypatch, capsys):
    """The same weights as undisturbed, and steps are made while a checkpoint waits for its store."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    short = replace(RECIPE, train=replace(RECIPE.train, steps=8, checkpoint_steps=4, log_steps=1))
    undisturbed = train(ALONE, job(digits, tmp_path / "undisturbed", short), training_observers).result
    (tmp_path / "s3").mkdir()
    outages: list[Outage] = []
    steps_at: list[float] = []
    with ObjectStore(tmp_path / "s3") as store:
        for file in digits.iterdir():
            Folder(store.uri("data")).write(file.name, file.read_bytes())
        layout = Layout(stage_dir=str(tmp_path / "cache"))
        asked = job(store.uri("data"), store.uri("run"), short, layout=layout)
        write_files = retention.write_files

        def cut_off_while_writing(folder, checkpoint):
            if checkpoint.step == 4:
                outages.append(Outage(store, 5.0))
            write_files(folder, checkpoint)

        class AtTheEnd:
            def handle(self, event):
                if isinstance(event, StepsDone):
                    steps_at.append(time.monotonic())
                if isinstance(event, Finished):
                    outages.append(Outage(store, 2.0))

        monkeypatch.setattr(retention, "write_files", cut_off_while_writing)
        outages.append(Outage(store, 2.0))  # while the manifest is read
        outcome = train(ALONE, asked, lambda context: [AtTheEnd(), *training_observers(context)])
        found, skipped = retention.read_newest(Folder(store.uri("run")))
        result = Folder(store.uri("run")).read_json("result.json")
    assert outcome.problem is None
    assert undisturbed is not None
    assert result["weights_sha256"] == undisturbed["weights_sha256"]
    assert found is not None
    assert (found.step, skipped) == (8, [])
    assert len(outages) == 3
    assert any(outages[1].began < at < outages[1].ended for at in steps_at[4:]), "the training waited"
    said = capsys.readouterr().err
    assert said.count("does not answer") == said.count("answers again")
    assert "--data s3://" in said
    assert "--out s3://" in said
