"""The depths compared on Tiny ImageNet: 11, 13, 16, 16 with 1x1 convolutions, 19."""

from dataclasses import replace

from vgg.recipes.registry import RECIPES
from vgg.recipes.schema import Initialisation, Optim, Recipe, Schedule, Train
from vgg.studies.graph import Evaluation, Fusion, Step, Study, Training

DEPTHS = ("11", "13", "16", "16-1x1", "19")
SHALLOWEST = DEPTHS[0]
HOLDOUT_FLAG = "--holdout-share 0.1"


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
    data = f"Tiny ImageNet, 200 classes, packed with {HOLDOUT_FLAG}"
    return Study("tiny-imagenet", title, data, (*trainings, *tests, *fusions), needs_holdout=True)


def reduced_study() -> Study:
    """Ten classes, a quarter of the width, Adam and a few passes: the same comparison for two cores.

    The deeper nets start from four convolutions and the fully connected layers of the shallowest (paper,
    section 3.1).
    """
    trainings = [_reduced_training(depth) for depth in DEPTHS]
    tests: list[Step] = [
        Evaluation(f"test-{each.name}", each.name, ("single-crop", "dense"), ("single",)) for each in trainings
    ]
    fusion = Fusion("fuse-all", tuple(test.name for test in tests), "dense", "single")
    title = "Depths compared on ten classes of Tiny ImageNet, at a reduced setting"
    data = f"Tiny ImageNet, packed with --classes 10 {HOLDOUT_FLAG}"
    return Study("tiny-imagenet-reduced", title, data, (*trainings, *tests, fusion), needs_holdout=True)


def _recipe(depth: str) -> Recipe:
    return RECIPES[f"tiny-imagenet-{depth}"][1]


def _reduced_training(depth: str) -> Training:
    recipe, is_first = _recipe(depth), depth == SHALLOWEST
    start: Initialisation = "glorot" if is_first else "shallower-glorot"
    reduced = replace(
        recipe,
        model=replace(recipe.model, classes=10, width=0.25, dropout=0.0, initialisation=start),
        input=replace(recipe.input, min_scale=64, max_scale=72),
        optim=Optim(name="adam", lr=5e-4, weight_decay=0.0),
        schedule=Schedule(patience=1, patience_steps=100, max_drops=2, factor=3.0),
        train=Train(
            batch=32,
            steps=400,
            validation_steps=100,
            checkpoint_steps=100,
            log_steps=20,
        ),
    )
    start_from = None if is_first else f"depth-{SHALLOWEST}"
    return Training(f"depth-{depth}", f"tiny-imagenet-{depth}", reduced, start_from)


def _test(training: str) -> Evaluation:
    return Evaluation(f"test-{training}", training, ("single-crop", "dense", "multi-crop", "both"))
