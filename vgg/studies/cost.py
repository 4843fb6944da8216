"""What steps cost: FLOP by the nets' shapes, seconds by rates that were measured."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from pipelines.shards.manifest import Manifest
from vgg.net.architecture import Architecture, forward_flops, layers, training_flops
from vgg.net.initialise import initialise
from vgg.net.module import VGG
from vgg.recipes.schema import Recipe
from vgg.studies.graph import Evaluation, Fusion, Node, Training
from vgg.studies.record import StepResult
from vgg.testing.protocols import GRID, derived_scales

MEASURED_ROWS = 16
FUSION_SECONDS = 2.0
START_SECONDS = 3.0
"""Of a step besides its arithmetic: opening data and nets, writing results."""


@dataclass(frozen=True)
class Rates:
    """FLOP per second of one worker, and where they are known from."""

    training: float
    evaluation: float
    source: str


def step_flop(node: Node, trainings: Mapping[str, Training], manifest: Manifest) -> float:
    """FLOP of a step's passes over images; 0 of a fusion."""
    match node.step:
        case Training(recipe=recipe):
            steps = recipe.total_steps(manifest.splits["train"].images)
            return float(training_flops(_architecture(recipe, manifest)) * steps * recipe.train.batch)
        case Evaluation() as step:
            recipe = trainings[step.training].recipe
            passes = {
                (protocol, scale)
                for asked in step.protocols
                for protocol in (("dense", "multi-crop") if asked == "both" else (asked,))
                for value in step.scales
                for scale in _scales(value, recipe)
            }
            architecture = _architecture(recipe, manifest)
            return manifest.splits["val"].images * sum(_pass_flop(architecture, *each) for each in passes)
    return 0.0


def step_seconds(node: Node, flop: float, rates: Rates, workers: int) -> float:
    """Wall time of a step on so many workers."""
    if isinstance(node.step, Fusion):
        return FUSION_SECONDS
    rate = rates.training if isinstance(node.step, Training) else rates.evaluation
    return START_SECONDS + flop / rate / workers


def remaining_seconds(nodes: Sequence[Node], seconds: Mapping[str, float], at_once: int) -> float:
    """Wall time of the nodes of which so many run at once: no less than their longest chain.

    `seconds`: of each node that is still to run; those that it lacks are done.
    """
    chains: dict[str, float] = {}
    for node in nodes:
        before = max((chains.get(name, 0.0) for name in node.needs), default=0.0)
        chains[node.name] = before + seconds.get(node.name, 0.0)
    return max(max(chains.values(), default=0.0), sum(seconds.values()) / at_once)


def duration(seconds: float) -> str:
    """For people: seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def measured_rates(done: Iterable[StepResult], nodes: Sequence[Node], manifest: Manifest) -> Rates:
    """From the finished steps or, where there are none of a kind, from an update timed on this machine."""
    totals = {"training": [0.0, 0.0], "evaluation": [0.0, 0.0]}
    for result in done:
        if result.kind in totals and result.cost.flop:
            totals[result.kind][0] += result.cost.flop
            totals[result.kind][1] += result.cost.workers * max(result.cost.seconds - START_SECONDS, 0.1)
    if all(seconds for _, seconds in totals.values()):
        train, test = (flop / seconds for flop, seconds in totals.values())
        return Rates(train, test, "the finished steps of this study")
    recipe = next(node.step.recipe for node in nodes if isinstance(node.step, Training))
    here = _timed_here(_architecture(recipe, manifest))
    rates = [flop / seconds if seconds else here for flop, seconds in totals.values()]
    known = ", and its finished steps" if any(seconds for _, seconds in totals.values()) else ""
    return Rates(rates[0], rates[1], f"an update timed on one core of this machine{known}")


def _timed_here(architecture: Architecture) -> float:
    """FLOP per second of one core of this machine, in one update on a few rows; the better of two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        net = VGG(architecture)
        initialise(net, "glorot", 0)
        net.to(memory_format=torch.channels_last)
        side = architecture.side
        rows = max(1, min(MEASURED_ROWS, 2 * 224**2 // side**2))
        images_BCHW = torch.zeros(rows, 3, side, side).to(memory_format=torch.channels_last)
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            net(images_BCHW).sum().backward()
            seconds.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return training_flops(architecture) * rows / min(seconds)


def _pass_flop(architecture: Architecture, protocol: str, scale: int) -> float:
    """FLOP of one image, taken as a square."""
    if protocol == "single-crop":
        return forward_flops(architecture)
    if protocol == "multi-crop":
        return 2 * GRID**2 * forward_flops(architecture)
    side = architecture.side
    places = (scale // 32 - side // 32 + 1) ** 2
    found = layers(architecture)
    convolutions = sum(layer.multiply_adds for layer in found if layer.kind == "conv")
    linear = sum(layer.multiply_adds for layer in found if layer.kind == "linear")
    return 2 * 2 * (convolutions * (scale / side) ** 2 + linear * places)


def _scales(value: str, recipe: Recipe) -> tuple[int, ...]:
    if value == "validation":
        return (recipe.input.test_scale,)
    if value in ("single", "several"):
        return derived_scales(recipe.input, recipe.model.side, value == "several")
    return tuple(map(int, value.split(",")))


def _architecture(recipe: Recipe, manifest: Manifest) -> Architecture:
    return recipe.architecture(len(manifest.classes))
