"""The depths compared on Tiny ImageNet: 11, 13, 16, 16 with 1x1 convolutions, 19."""

from dataclasses import replace

from vgg.recipes.registry import RECIPES
from vgg.recipes.schema import Optim, Recipe, Schedule, Train
from vgg.studies.graph import Evaluation, Fusion, Step, Study, Training

DEPTHS = ("11", "13", "16", "16-1x1", "19")


def tiny_imagenet_study() -> Study:
    """The registered recipes, by the centre crop, as published results are, and by the paper's protocols."""
    trainings = [Training(f"depth-{depth}", f"tiny-imagenet-{depth}", _recipe(depth)) for depth in DEPTHS]
    tests: list[Step] = [_test(each.name) for each in trainings]
    names = tuple(test.name for test in tests)
    fusions = [
        Fusion("fuse-all", names, "dense", "several"),
        Fusion("fuse-16-19", ("test-depth-16", "test-depth-19"), "both", "several"),
    ]
    title = "Depths compared on Tiny ImageNet"
    return Study("tiny-imagenet", title, "Tiny ImageNet, 200 classes", (*trainings, *tests, *fusions))


def reduced_study() -> Study:
    """Ten classes, half the width, Adam and a few hundred updates: the same comparison for two cores."""
    trainings = [Training(f"depth-{depth}", f"tiny-imagenet-{depth}", _reduced(depth)) for depth in DEPTHS]
    tests: list[Step] = [
        Evaluation(f"test-{each.name}", each.name, ("single-crop", "dense"), ("single",)) for each in trainings
    ]
    fusion = Fusion("fuse-all", tuple(test.name for test in tests), "dense", "single")
    title = "Depths compared on ten classes of Tiny ImageNet, at a reduced setting"
    name = "tiny-imagenet-reduced"
    return Study(name, title, "Tiny ImageNet, packed with --classes 10", (*trainings, *tests, fusion))


def _recipe(depth: str) -> Recipe:
    return RECIPES[f"tiny-imagenet-{depth}"][1]


def _reduced(depth: str) -> Recipe:
    recipe = _recipe(depth)
    return replace(
        recipe,
        model=replace(recipe.model, classes=10, width=0.25),
        input=replace(recipe.input, min_scale=64, max_scale=72),
        optim=Optim(name="adam", lr=5e-4),
        schedule=Schedule(patience=3, patience_steps=100, max_drops=2, factor=3.0),
        train=Train(batch=64, steps=400, validation_steps=100, checkpoint_steps=50, log_steps=20),
    )


def _test(training: str) -> Evaluation:
    return Evaluation(f"test-{training}", training, ("single-crop", "dense", "multi-crop", "both"))
