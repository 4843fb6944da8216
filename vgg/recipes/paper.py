"""The paper's trainings (sections 3.1 and 4.1)."""

from collections.abc import Iterator
from dataclasses import replace

from vgg.recipes.schema import Input, Model, Optim, Recipe, Train


def paper_recipes() -> Iterator[tuple[str, str, Recipe]]:
    """Name, expected result and recipe of each."""
    dense = "expected top-1 / top-5 validation error, dense at one scale (paper, table 3)"
    for name, configuration, errors in [
        ("paper-a", "A", "29.6 / 10.4"),
        ("paper-a-lrn", "A-LRN", "29.7 / 10.5"),
        ("paper-b", "B", "28.7 / 9.9"),
        ("paper-c", "C", "28.1 / 9.4"),
        ("paper-d", "D", "27.0 / 8.8"),
        ("paper-e", "E", "27.3 / 9.0"),
    ]:
        recipe = Recipe(model=Model(configuration=configuration, classes=1000))  # type: ignore[arg-type]
        yield name, f"S = 256; {dense} {errors} %", recipe
    yield (
        "paper-b-5x5",
        "S = 256, each pair of 3x3 convolutions of B as one of 5x5; expected top-1 validation error on a "
        "centre crop: 7 % above paper-b's (paper, section 4.1)",
        Recipe(model=Model(configuration="B-5x5", classes=1000)),
    )
    # Section 3.1: A from random weights, the others from its first four convolutions and its last three layers.
    normal = Model(configuration="A", classes=1000, initialisation="normal")
    yield (
        "paper-a-normal",
        f"S = 256, from N(0, 0.01²) as the paper; {dense} 29.6 / 10.4 %",
        Recipe(model=normal),
    )
    for letter, errors in [("B", "28.7 / 9.9"), ("C", "28.1 / 9.4"), ("D", "27.0 / 8.8"), ("E", "27.3 / 9.0")]:
        model = Model(configuration=letter, classes=1000, initialisation="shallower")  # type: ignore[arg-type]
        yield (
            f"paper-{letter.lower()}-from-a",
            f"S = 256 from --model.start-from paper-a-normal, as the paper; {dense} {errors} %",
            Recipe(model=model),
        )
    yield from _fine_tunings(dense)


def _fine_tunings(dense: str) -> Iterator[tuple[str, str, Recipe]]:
    """The nets at S = 384 and with jitter. The paper does not say how long they train: 20 epochs is our
    choice."""
    for letter, at_384, jittered in [
        ("C", "28.1 / 9.3", "27.3 / 8.8"),
        ("D", "26.8 / 8.7", "25.6 / 8.1"),
        ("E", "26.9 / 8.7", "25.5 / 8.0"),
    ]:
        tuned = Recipe(
            model=Model(configuration=letter, classes=1000, initialisation="checkpoint"),  # type: ignore[arg-type]
            optim=Optim(lr=1e-3),
            train=Train(epochs=20.0),
        )
        name = f"paper-{letter.lower()}"
        yield (
            f"{name}-384",
            f"S = 384 from --model.start-from {name}; {dense} {at_384} %",
            replace(tuned, input=Input(min_scale=384, max_scale=384, test_scale=384)),
        )
        yield (
            f"{name}-jitter",
            f"S in [256; 512] from --model.start-from {name}-384; {dense} {jittered} %",
            replace(tuned, input=Input(min_scale=256, max_scale=512, test_scale=384)),
        )
