"""One training of `benchmarks.host`: times the parts of each update on the training's own thread.

It wraps functions of the checkout that it is run in by name, so that two versions of the code can be compared.

Shapes: B images of a batch, C = 3, H = W = 32 pixels.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.models.vgg import cfgs, make_layers

from cluster.layout import Layout, Worker
from pipelines.shards.manifest import read_manifest
from vgg.recipes.registry import RECIPES
from vgg.tracking import training_pictures
from vgg.tracking.observers import training_observers
from vgg.tracking.picture_files import PictureFiles
from vgg.training.events import Observer, RunContext
from vgg.training.job import Job
from vgg.training.loop import Training, train
from vgg.training.plan import TrainingPlan

PARTS = {
    "data wait": "pipelines.loading.dali Loader.__next__",
    "input": "vgg.training.loop to_input",
    "masks": "vgg.training.dropout MaskSource.of",
    "step": "vgg.training.loop train_step",
    "loss window": "vgg.training.loop summed",
    "observers": "vgg.training.loop Training._tell",
    "validation": "vgg.training.loop Training._validate",
    "checkpoint": "vgg.training.saving Saver.save",
}
ANYWHERE = ("observers",)
"""Parts that count as themselves inside another too; batches of a validation are part of it."""
UPDATE, CPU = "update", "update, CPU of its thread"
"""The whole, beside the parts; the second of them hardly depends on what else the machine does."""


@dataclass(frozen=True)
class Setting:
    """What to train."""

    data: str
    """Packed digits."""
    out: str
    tracking_uri: str | None
    updates: int
    batch: int
    width: float
    validation_updates: int
    checkpoint_updates: int
    ballast_mb: int
    """Size of a tensor that is saved with the net and not trained, in MB."""
    bare: bool = False
    """The peer in place of our training: see `bare`."""


class Clock:
    """Seconds of each part of each update, each second counted once. An update ends as its step returns."""

    def __init__(self) -> None:
        self.updates: list[dict[str, float]] = []
        self._parts: dict[str, float] = {}
        self._open: list[str] = []
        self._since = self._began = time.perf_counter()
        self._cpu = time.thread_time()

    @contextmanager
    def part(self, name: str) -> Any:
        """Count the block as this part, and not as the one around it."""
        if self._open and name not in ANYWHERE:
            yield
            return
        self._count()
        self._open.append(name)
        yield
        self._count()
        self._open.pop()
        if name == "step":
            self._end_update()

    def _count(self) -> None:
        now, name = time.perf_counter(), self._open[-1] if self._open else "rest"
        self._parts[name] = self._parts.get(name, 0.0) + now - self._since
        self._since = now

    def _end_update(self) -> None:
        cpu = time.thread_time()
        self.updates.append({**self._parts, UPDATE: self._since - self._began, CPU: cpu - self._cpu})
        self._parts, self._began, self._cpu = {}, self._since, cpu

    def watch(self, name: str, where: str) -> None:
        """Count calls of this function, `module name` or `module Class.name`, as a part."""
        module, path = where.split()
        owner: Any = importlib.import_module(module)
        *outer, attribute = path.split(".")
        for each in outer:
            owner = getattr(owner, each)
        setattr(owner, attribute, self._timed(name, getattr(owner, attribute)))

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return call(*arguments, **options)

        return timed


def job(setting: Setting) -> Job:
    """A training of configuration A on the digits, so narrow that the host's work is what counts."""
    _, recipe = RECIPES["digits"]
    recipe = replace(
        recipe,
        model=replace(recipe.model, width=setting.width),
        train=replace(
            recipe.train,
            batch=setting.batch,
            steps=setting.updates,
            validation_steps=setting.validation_updates,
            checkpoint_steps=setting.checkpoint_updates,
            log_steps=20,
        ),
    )
    plan = TrainingPlan.resolve("digits", recipe, 0, setting.data, read_manifest(setting.data))
    return Job(plan, setting.out, Layout(reduce="ddp"), "0" * 32, "0" * 32, setting.tracking_uri, "host")


def observers(context: RunContext) -> list[Observer]:
    """Those of a training; of one that is not tracked, without its pictures, drawn when it has ended."""
    tracked = context.job.tracking_uri is not None
    return [each for each in training_observers(context) if tracked or not isinstance(each, PictureFiles)]


def with_ballast(megabytes: int) -> None:
    """Give nets that are trained from now on a tensor that is saved and costs no arithmetic."""
    run = Training.run

    def heavier(self: Training, *arguments: Any) -> Any:
        self.net.register_buffer("ballast", torch.ones(megabytes * 250_000))
        return run(self, *arguments)

    Training.run = heavier  # type: ignore[method-assign,assignment]


def bare(setting: Setting) -> list[dict[str, float]]:
    """Seconds of the updates of torchvision's net, as narrow, by a loop of plain PyTorch from one batch in
    memory: what a step costs anyway, on this processor and by this PyTorch."""
    units, classes, side = round(4096 * setting.width), 10, 32
    layers = [each if each == "M" else round(each * setting.width) for each in cfgs["A"]]
    net = nn.Sequential(make_layers(layers), nn.Flatten())
    net.append(nn.Sequential(nn.Linear(layers[-2], units), nn.ReLU(), nn.Dropout()))
    net.append(nn.Sequential(nn.Linear(units, units), nn.ReLU(), nn.Dropout(), nn.Linear(units, classes)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    images_BCHW = torch.randn(setting.batch, 3, side, side)
    targets_B = torch.arange(setting.batch) % classes
    clock = Clock()
    for _ in range(setting.updates):
        with clock.part("step"):
            optimizer.zero_grad()
            cross_entropy(net(images_BCHW), targets_B).backward()
            optimizer.step()
    return clock.updates


def main(setting: Setting, found: Path) -> None:
    """Train, then write the seconds of each update."""
    torch.set_num_threads(1)
    if setting.bare:
        found.write_text(json.dumps(bare(setting)))
        return
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    training_pictures.PICTURE_SECONDS = 0.0  # at each validation
    if setting.tracking_uri is not None:
        importlib.import_module("mlflow")  # takes seconds, once
    if setting.ballast_mb:
        with_ballast(setting.ballast_mb)
    clock = Clock()
    for name, where in PARTS.items():
        clock.watch(name, where)
    outcome = train(Worker(0, 1, 0, torch.device("cpu"), 1), job(setting), observers)
    assert outcome.problem is None, outcome.problem
    found.write_text(json.dumps(clock.updates))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Setting(**json.loads(sys.argv[1])), Path(sys.argv[2]))
