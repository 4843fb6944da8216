"""The same nets at 64×64 on Tiny ImageNet."""

from collections.abc import Iterator

from vgg.recipes.schema import Input, Model, Recipe, Schedule, Train


def tiny_imagenet_recipes() -> Iterator[tuple[str, str, Recipe]]:
    """Name, expected result and recipe of each."""
    for suffix, configuration, accuracy in [
        ("11", "A", "52.5 %"),
        ("13", "B", "53.4 %"),
        ("16", "D", "53.5 %"),
        ("16-1x1", "C", "none known"),
        ("19", "E", "52.4 %"),
    ]:
        recipe = Recipe(
            model=Model(configuration=configuration, classes=200, side=64),  # type: ignore[arg-type]
            input=Input(min_scale=64, max_scale=80, test_scale=64),
            schedule=Schedule(patience=5),
            train=Train(epochs=60.0),
        )
        best = f"best published top-1 accuracy of a plain VGG at 64x64: {accuracy}"
        yield f"tiny-imagenet-{suffix}", best, recipe
