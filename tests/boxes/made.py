"""A made data set with boxes, and nets for it: bright rectangles on noise, wide of class a, high of class b."""

import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cluster.layout import Layout, Worker
from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from pipelines.shards.manifest import read_manifest
from pipelines.storage.folder import Folder
from vgg.net.module import VGG
from vgg.net.precision import MixedPrecision
from vgg.recipes.registry import RECIPES
from vgg.recipes.schema import Recipe
from vgg.training.job import Job
from vgg.training.loop import train
from vgg.training.optimizer import make_optimizer
from vgg.training.plan import TrainingPlan
from vgg.training.resume import to_checkpoint
from vgg.training.starting_weights import starting_weights
from vgg.training.state import TrainerState
from vgg.weights import retention
from vgg.weights.open_net import open_net

SIDE = 32
UNBOXED = 7  # every seventh image has no box


def make(folder: Path, counts: dict[str, int]) -> Path:
    """Pack so many images of each split; the packed folder."""
    for split, count in counts.items():
        for i in range(count):
            rng = np.random.default_rng([i, len(split)])
            label = "ab"[i % 2]
            width, height = (20, 10) if label == "a" else (10, 20)
            sides = int(rng.integers(36, 48)), int(rng.integers(36, 48))
            x0, y0 = int(rng.integers(0, sides[1] - width)), int(rng.integers(0, sides[0] - height))
            pixels = rng.integers(0, 90, (*sides, 3), np.uint8)
            pixels[y0 : y0 + height, x0 : x0 + width] += 150
            file = folder / "source" / split / label / f"{split}{i:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
            if i % UNBOXED == UNBOXED - 1:
                continue
            edges = zip(("xmin", "ymin", "xmax", "ymax"), (x0, y0, x0 + width, y0 + height), strict=True)
            inner = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges)
            xml = folder / "source" / "Annotations" / f"{split}{i:03d}.xml"
            xml.parent.mkdir(exist_ok=True)
            xml.write_text(
                f"<annotation><object><name>{label}</name><bndbox>{inner}</bndbox></object></annotation>"
            )
    pack(PackOptions(str(folder / "source"), folder / "packed", workers=1))
    return folder / "packed"


def classifier_recipe(steps: int) -> Recipe:
    """Of a small net for the made set."""
    base = RECIPES["digits"][1]
    model = replace(base.model, configuration="A", classes=2, side=SIDE, width=0.125)
    crop = replace(base.input, min_scale=36, max_scale=36, test_scale=36)
    return replace(base, model=model, input=crop, train=replace(base.train, batch=16, steps=steps))


def box_recipe(steps: int, start: Path, **model: object) -> Recipe:
    """The recipe `boxes`, short, from a classifier."""
    base = RECIPES["boxes"][1]
    asked = replace(base.model, start_from=str(start), **model)  # type: ignore[arg-type]
    train = replace(base.train, precision="fp32", batch=16, steps=steps, checkpoint_steps=2)
    return replace(base, model=asked, train=train)


def job(name: str, data: Path, out: Path, recipe: Recipe, layout: Layout | None = None) -> Job:
    """A training, untracked."""
    plan = TrainingPlan.resolve(name, recipe, 0, str(data), read_manifest(data))
    return Job(plan, str(out), layout or Layout(), "0" * 32, uuid.uuid4().hex, None, "tests")


def train_alone(name: str, data: Path, out: Path, recipe: Recipe) -> Path:
    """Train in this process; the run's folder."""
    alone = Worker(0, 1, 0, torch.device("cpu"), 1)
    assert train(alone, job(name, data, out, recipe), lambda _: []).result
    return out


def save_box_net(out: Path, data: Path, start: Path, boxes: str) -> Path:
    """A run whose net answers boxes strewn around the middle of the crop; nothing is trained."""
    plan = job("boxes", data, out, box_recipe(1, start, boxes=boxes)).plan
    net = VGG(plan.architecture)
    starting_weights(net, plan.recipe.model, 0, open_net(str(start)).weights, plan.fresh)
    with torch.no_grad():
        net.fc8.weight.mul_(0.3)
        net.fc8.bias.copy_(torch.tensor([0.5, 0.5, 0.5, 0.45]).repeat(plan.architecture.outputs // 4))
    optimizer, precision = (
        make_optimizer(net, plan.recipe.optim),
        MixedPrecision(torch.float32, torch.device("cpu")),
    )
    checkpoint = to_checkpoint(plan, net, optimizer, precision, TrainerState(step=1, losses=[0.0]))
    retention.write(Folder(str(out)), checkpoint, best=True)
    (out / "run.json").write_text("{}")
    return out
